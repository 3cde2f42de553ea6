"""Models of an MLflow tracking server, copied into the registry and kept in step with it.

Everything goes through the registry's ordinary commands, so that gates hold and every step
stands in the log. What was last seen of the server is kept with each model (`metadata.mlflow`)
and version (`followed`): only what changed *there* since is changed here, and what people
changed here stays. A second import finds nothing to do; one that was killed goes on.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

from ml_registry_pipelines.errors import MlregError
from ml_registry_pipelines.exchange.mlflow_facts import (
    alias_here,
    instant,
    merged_tags,
    stage_of,
    steps_between,
    usable_tags,
    usable_text,
)
from ml_registry_pipelines.exchange.mlflow_server import (
    ModelVersion,
    NoTrackingServer,
    NotThere,
    RegisteredModel,
    TrackingServer,
    TrackingServerError,
    Unreachable,
)
from ml_registry_pipelines.exchange.mlflow_versions import VersionCopier
from ml_registry_pipelines.registry.actors import Actor
from ml_registry_pipelines.registry.errors import NameTaken, RegistryError, shown
from ml_registry_pipelines.registry.foreign import ForeignVersions, NumberTaken
from ml_registry_pipelines.registry.log import Log
from ml_registry_pipelines.registry.models import ModelRegistry
from ml_registry_pipelines.registry.names import checked_name
from ml_registry_pipelines.registry.needs import LIVE_STAGES
from ml_registry_pipelines.registry.references import check_free
from ml_registry_pipelines.registry.states import MODEL, State
from ml_registry_pipelines.registry.versions import Stage
from ml_registry_pipelines.registry.view import View


class AnotherServer(MlregError):
    """Another server answers at the address than the one that was imported from."""


@dataclass
class Imported:
    """What an import did. `left_out` and `failed` are sentences; what failed is tried again the next time."""

    models: int = 0
    versions: int = 0
    bytes: int = 0
    renamed: int = 0
    deleted: int = 0
    changed: int = 0
    unchanged: int = 0
    left_out: list[str] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)

    def sentence(self) -> str:
        """The counts, for a person."""
        counts = {
            "models new": self.models,
            "versions new": self.versions,
            "renamed": self.renamed,
            "deleted": self.deleted,
            "changed": self.changed,
            "unchanged": self.unchanged,
            "not mapped": len(self.left_out),
            "failed": len(self.failed),
        }
        said = ", ".join(f"{count:,} {what}" for what, count in counts.items() if count)
        return f"{said or 'nothing there'}; {self.bytes:,} bytes of artifacts"


@dataclass
class _Pair:
    """A model there and here."""

    there: RegisteredModel
    here: State
    versions: dict[int, ModelVersion]


class MlflowImport:
    """Copies from one tracking server into one tenant, for one actor.

    Args:
        server: where to read.
        name: what the server is called in the registry; by default its address. Keep it when
            the server moves to another address.
        without_artifacts: record versions whose artifacts the server does not hand out as references.
    """

    def __init__(
        self,
        log: Log,
        server: TrackingServer,
        *,
        actor: Actor,
        tenant: str = "default",
        run_id: str | None = None,
        name: str | None = None,
        without_artifacts: bool = False,
        progress: Callable[[str], None] = lambda _: None,
    ) -> None:
        self.server = server
        self.name = name or server.uri
        # What another registry holds is wanted here, whatever it is like.
        self.registry = ModelRegistry(log, actor=actor, tenant=tenant, run_id=run_id, warn=lambda _: None)
        self._copier = VersionCopier(
            server,
            self.name,
            self.registry.artifacts,
            ForeignVersions(log, actor=actor, tenant=tenant, run_id=run_id),
            without_artifacts=without_artifacts,
        )
        self._progress = progress
        self._done = Imported()

    def run(self) -> Imported:
        """Bring the registry up to what the server holds now.

        Raises:
            Unreachable, AccessRefused, NoTrackingServer: the server cannot be read; what was
                taken before stays, and the next import goes on from there.
            AnotherServer: the address leads to another database than before.
        """
        self._done = done = Imported()
        self._copier.forget_runs()
        born = self.server.born_ms()
        here = self._imported()
        self._check_identity(born, here)
        listed = list(self.server.models())
        done.left_out += [f"{m.name} is a prompt, not a model" for m in listed if m.is_prompt]
        models = {m.name: m for m in listed if not m.is_prompt}
        versions: dict[str, dict[int, ModelVersion]] = {name: {} for name in models}
        for version in self.server.versions():
            if version.name in versions:
                versions[version.name][version.number] = version
        pairs, gone, new = self._matched(models, versions, here)
        for state in gone:
            self._retire(state)
        self._rename(pairs)
        for model in new:
            if (registered := self._registered(model, born)) is not None:
                pairs.append(_Pair(model, registered, versions[model.name]))
        pairs = [pair for pair in pairs if not self._deleted_here(pair)]
        known = self._known_versions(pairs)
        self._import_new(pairs, known)
        known = self._known_versions(pairs)
        for pair in pairs:
            self._follow(pair, known[pair.here.id])
        return done

    # -- what is here ------------------------------------------------------------------

    def _imported(self) -> list[State]:
        """Models that came from this server, deleted ones included."""
        return self.registry.view().select(
            "exchange.imported_models",
            "things",
            "type = 'model' AND json_extract_string(state, '$.metadata.mlflow.server') = $server",
            parameters={"server": self.name},
        )

    def _check_identity(self, born: int | None, here: Sequence[State]) -> None:
        """A wiped or swapped database must not look like the deletion of everything."""
        before = {int(_seen(s)["born_ms"]) for s in here if _seen(s).get("born_ms") is not None}
        if born is not None and before and born not in before:
            raise AnotherServer(
                f"{self.server.uri} is not the server that {self.name} was: its database was made on "
                f"{instant(born):%Y-%m-%d %H:%M:%S} and that one's on {instant(max(before)):%Y-%m-%d %H:%M:%S} "
                "(UTC). Nothing was changed; import it under another name (--server-name)"
            )

    def _known_versions(self, pairs: Sequence[_Pair]) -> dict[str, dict[int, State]]:
        found: dict[str, dict[int, State]] = {pair.here.id: {} for pair in pairs}
        for state in self.registry.view().by_any("model_versions", "model_id", list(found)):
            found[str(state.data["model_id"])][int(state.data["version"])] = state
        return found

    def _came_from_there(self, version: State | None) -> bool:
        return version is not None and version.data.get("origin", {}).get("server") == self.name

    def _restored_here(self, table: str, state: State, seen: Callable[[State], Mapping[str, Any]]) -> bool:
        """Whether its deletion there was followed before, and taken back here."""
        return bool(seen(state).get("deleted_there")) and any(
            before.deleted and seen(before).get("deleted_there")
            for before in self.registry.view().history(table, state.id)
        )

    # -- models ------------------------------------------------------------------------

    def _matched(
        self,
        models: Mapping[str, RegisteredModel],
        versions: Mapping[str, Mapping[int, ModelVersion]],
        here: Sequence[State],
    ) -> tuple[list[_Pair], list[State], list[RegisteredModel]]:
        """Which model here is which there, which is gone there, and which is new there."""
        pairs: list[_Pair] = []
        left: list[State] = []
        open_ones = dict(models)
        for state in here:
            seen = _seen(state)
            if seen.get("deleted_there") and state.deleted:
                continue
            model = open_ones.get(seen["name"])
            if model is not None and model.created_ms == seen["created_ms"]:
                pairs.append(_Pair(model, state, dict(versions[model.name])))
                del open_ones[model.name]
            else:
                left.append(state)
        gone = []
        for state in left:
            renamed = [m for m in open_ones.values() if self._same(m, versions[m.name], state)]
            if renamed:
                pairs.append(_Pair(renamed[0], state, dict(versions[renamed[0].name])))
                del open_ones[renamed[0].name]
            elif not (state.deleted or self._restored_here("things", state, _seen)) and self._is_gone(state):
                gone.append(state)
        return pairs, gone, sorted(open_ones.values(), key=lambda m: (m.created_ms, m.name))

    def _same(self, model: RegisteredModel, versions: Mapping[int, ModelVersion], state: State) -> bool:
        """Whether a model there is the one here under another name: made in the same millisecond, as its versions."""
        if model.created_ms != _seen(state)["created_ms"]:
            return False
        known = {
            int(s.data["version"]): s.data.get("origin", {}).get("created_ms")
            for s in self.registry.view().by_column("model_versions", "model_id", state.id)
        }
        return all(known[n] == v.created_ms for n, v in versions.items() if n in known)

    def _is_gone(self, state: State) -> bool:
        """Ask once more by name: a search may leave out what an account may not see."""
        seen = _seen(state)
        try:
            found = self.server.model(seen["name"])
        except NotThere:
            return True
        except TrackingServerError as refused:
            if isinstance(refused, Unreachable | NoTrackingServer):
                raise
            self._done.failed.append(f"{state.name}: {refused}")
            return False
        return found.created_ms != int(seen["created_ms"])

    def _retire(self, state: State) -> None:
        """Follow a deletion: what is live is archived, then the model is deleted, so that it can be restored."""

        def edit(now: State, _: View) -> dict[str, Any]:
            metadata = dict(now.data["metadata"])
            return {"metadata": {**metadata, "mlflow": {**metadata["mlflow"], "deleted_there": True}}}

        with _Listed(self._done.failed, f"{state.name} was deleted there and is kept here"):
            if not _seen(state).get("deleted_there"):
                self.registry.things.amend("follow_model", MODEL, state.id, {"deleted_there": True}, edit)
            for version in self.registry.list_versions(state.id):
                if version.stage.value in LIVE_STAGES:
                    self.registry.set_stage(version.id, Stage.ARCHIVED)
            self.registry.delete_model(state.id)
            self._done.deleted += 1
            self._progress(f"{state.name}: deleted there, and so here")

    def _rename(self, pairs: Sequence[_Pair]) -> None:
        """Follow renamings, in an order in which names become free."""
        waiting = [p for p in pairs if p.there.name != _seen(p.here)["name"] and not p.here.deleted]
        while waiting:
            left = [pair for pair in waiting if not self._renamed(pair, pair.there.name)]
            if len(left) == len(waiting):
                taken = {pair.there.name for pair in left}
                # Two that changed places: one steps aside.
                aside = next((p for p in left if p.here.name in taken), None)
                if aside is None or not self._renamed(
                    aside, f"{aside.there.name[:480]} ({aside.here.id[-8:]})"
                ):
                    for pair in left:
                        self._done.failed.append(
                            f"{pair.here.name} is called {pair.there.name} there, and a model of that name is here "
                            "already: rename that one"
                        )
                    return
            waiting = left

    def _renamed(self, pair: _Pair, to: str) -> bool:
        final = to == pair.there.name
        if pair.here.name == to == pair.there.name and _seen(pair.here)["name"] == to:
            return True

        def edit(now: State, view: View) -> dict[str, Any]:
            name = checked_name(to)
            check_free(view, MODEL, name, but=now.id)
            metadata = dict(now.data["metadata"])
            seen = {**metadata["mlflow"], **({"name": to} if final else {})}
            return {"name": name, "metadata": {**metadata, "mlflow": seen}}

        try:
            before = pair.here.name
            self.registry.things.amend("rename_model", MODEL, pair.here.id, {"to": to}, edit)
        except NameTaken:
            return False
        except RegistryError as refused:
            self._done.failed.append(f"{pair.here.name} is called {shown(to)} there: {refused}")
            return True
        pair.here = self._now(pair.here.id)
        if final:
            self._done.renamed += 1
            self._progress(f"{before}: renamed to {to}")
        return True

    def _registered(self, model: RegisteredModel, born: int | None) -> State | None:
        tags, lost = usable_tags(model.tags, model.name)
        text, cut = usable_text(model.description, model.name)
        seen = {
            "server": self.name,
            "born_ms": born,
            "name": model.name,
            "created_ms": model.created_ms,
            "description": text,
            "tags": tags,
            "aliases": {},
        }
        try:
            thing = self.registry.register_model(
                model.name,
                description=text,
                tags=tags,
                metadata={"mlflow": seen},
                valid_from=instant(model.created_ms),
            )
        except NameTaken:
            self._done.failed.append(
                f"{model.name} was not taken over: a model of that name was registered here; rename that one"
            )
            return None
        except RegistryError as refused:
            self._done.failed.append(f"{shown(model.name)} was not taken over: {refused}")
            return None
        self._done.left_out += lost + cut
        self._done.models += 1
        self._progress(f"{model.name}: registered")
        return self._now(thing.id)

    def _deleted_here(self, pair: _Pair) -> bool:
        if pair.here.deleted:
            self._done.left_out.append(
                f"{pair.there.name} was deleted here and is left so; restore it to follow it"
            )
        return pair.here.deleted

    def _now(self, model_id: str) -> State:
        state = self.registry.view().by_id("things", model_id)
        assert state is not None
        return state

    # -- versions ----------------------------------------------------------------------

    def _import_new(self, pairs: Sequence[_Pair], known: Mapping[str, Mapping[int, State]]) -> None:
        """Take the new versions of all models in the order in which they were made, as their datasets were."""
        new = [
            (version, pair)
            for pair in pairs
            for number, version in pair.versions.items()
            if not self._came_from_there(known[pair.here.id].get(number))
        ]
        for version, pair in sorted(
            new, key=lambda found: (found[0].created_ms, found[0].name, found[0].number)
        ):
            what = f"{version.name} version {version.number}"
            if version.number in known[pair.here.id]:
                self._done.failed.append(
                    f"{what} was not taken over: {NumberTaken(pair.here.name, version.number)}; "
                    "register it there again, under a new number"
                )
                continue
            if version.status != "READY":
                self._done.failed.append(f"{what} is {version.status} there and was not taken over")
                continue
            with _Listed(self._done.failed, f"{what} was not taken over"):
                self._import(version, pair.here, what)

    def _import(self, version: ModelVersion, model: State, what: str) -> None:
        copied = self._copier.copy(version, model.id, what)
        self._done.left_out += copied.lost
        self._done.versions += copied.new
        self._done.bytes += copied.size
        self._progress(f"{what}: {copied.size:,} bytes")

    # -- following ---------------------------------------------------------------------

    def _follow(self, pair: _Pair, known: Mapping[int, State]) -> None:
        """Bring aliases, stages, tags and texts of a model and its versions up to what they are there."""
        before = self._done.changed
        ours = {n: s for n, s in known.items() if self._came_from_there(s)}
        followed = {
            n: s for n, s in ours.items() if n in pair.versions and self._is_followed(pair.versions[n], s)
        }
        self._follow_stages(pair, followed)
        aliases = self._follow_aliases(pair, followed)
        for number, state in sorted(followed.items()):
            self._follow_version(pair.versions[number], state)
        for number, state in sorted(ours.items()):
            if number not in pair.versions and not state.deleted:
                self._retire_version(pair, state)
        self._follow_model(pair, aliases)
        self._done.unchanged += before == self._done.changed

    def _is_followed(self, version: ModelVersion, state: State) -> bool:
        what = f"{version.name} version {version.number}"
        if state.data["origin"]["created_ms"] != version.created_ms:
            self._done.failed.append(
                f"{what} is another one there than was taken over, and a version never changes: "
                "register it there under a new number"
            )
            return False
        if state.deleted:
            self._done.left_out.append(f"{what} was deleted here and is left so")
        return not state.deleted

    def _follow_stages(self, pair: _Pair, followed: Mapping[int, State]) -> None:
        """Moves into production last: the one that leaves is archived by then."""
        producing = [v for v in pair.versions.values() if v.stage == "Production" and v.number in followed]
        newest = max(producing, key=lambda v: (v.updated_ms, v.number), default=None)
        moves: list[tuple[bool, int, Stage, str]] = []
        for number, version in pair.versions.items():
            if number not in followed or version.stage == followed[number].data["followed"]["stage"]:
                continue
            to = stage_of(version.stage)
            if to is None:
                self._done.left_out.append(
                    f"{version.name} version {number} has the unknown stage {version.stage!r}"
                )
                continue
            if to is Stage.PRODUCTION and newest is not None and number != newest.number:
                self._done.left_out.append(
                    f"{version.name} version {number} is in production there beside version {newest.number}; "
                    "a model has one production version here, so it is archived"
                )
                to = Stage.ARCHIVED
            moves.append((to is Stage.PRODUCTION, number, to, version.stage))
        for _, number, to, word in sorted(moves, key=lambda move: move[:2]):
            what = f"{pair.there.name} version {number} is not {to.value} here, as it is there"
            with _Listed(self._done.failed, what):
                self._move(followed[number].id, to)
                self._amend_followed(followed[number].id, {"stage": word})
                self._done.changed += 1

    def _move(self, version_id: str, to: Stage) -> None:
        """Go by the steps that are allowed."""
        now = self.registry.get_version(version_id).stage
        for _, step in pairwise(steps_between(now, to)):
            if step is Stage.PRODUCTION:
                self.registry.promote_to_production(version_id, reason=f"in production at {self.name}")
            else:
                self.registry.set_stage(version_id, step)

    def _follow_aliases(self, pair: _Pair, followed: Mapping[int, State]) -> dict[str, int]:
        """Move, set and remove aliases; return those that are now as they are there."""
        seen = {str(a): int(n) for a, n in _seen(pair.here)["aliases"].items()}
        if seen == pair.there.aliases:
            return seen
        current = self._now(pair.here.id).data.get("aliases", {})
        for alias, number in sorted(pair.there.aliases.items()):
            if seen.get(alias) == number:
                continue
            what = f"alias {alias} of {pair.there.name} is not followed"
            if number not in followed:
                self._done.failed.append(f"{what}: version {number} there is not here")
                continue
            with _Listed(self._done.failed, what):
                name = alias_here(alias)
                if name != alias:
                    self._done.left_out.append(
                        f"alias {alias} of {pair.there.name} is {name} here, where {alias} means a stage or a number"
                    )
                if current.get(name) != number:
                    self.registry.set_alias(followed[number].id, name)
                seen[alias] = number
                self._done.changed += 1
        for alias in sorted(set(seen) - set(pair.there.aliases)):
            with _Listed(
                self._done.failed, f"alias {alias} of {pair.there.name} is gone there and kept here"
            ):
                name = alias_here(alias)
                # Moved here since: then it is ours.
                if current.get(name) == seen[alias]:
                    self.registry.remove_alias(pair.here.id, name)
                del seen[alias]
                self._done.changed += 1
        return seen

    def _follow_version(self, version: ModelVersion, state: State) -> None:
        what = f"{version.name} version {version.number}"
        tags, lost = usable_tags(version.tags, what)
        text, cut = usable_text(version.description, what)
        followed = state.data["followed"]
        if tags == followed["tags"] and text == followed["description"]:
            return
        with _Listed(self._done.failed, f"{what} is not followed"):
            self._amend_followed(state.id, {"description": text, "tags": tags})
            self._done.left_out += lost + cut
            self._done.changed += 1

    def _amend_followed(self, version_id: str, new: Mapping[str, Any]) -> None:
        def edit(now: State, _: View) -> dict[str, Any]:
            followed = dict(now.data["followed"])
            edited: dict[str, Any] = {"followed": {**followed, **new}}
            if "tags" in new:
                edited["tags"] = merged_tags(now.data["tags"], followed["tags"], new["tags"])
            if "description" in new and new["description"] != followed["description"]:
                edited["description"] = new["description"]
            return edited

        self.registry.amend_version("follow_version", version_id, dict(new), edit)

    def _retire_version(self, pair: _Pair, state: State) -> None:
        what = f"{pair.there.name} version {state.data['version']}"
        if self._restored_here("model_versions", state, _followed):
            return
        with _Listed(self._done.failed, f"{what} was deleted there and is kept here"):
            if not _followed(state).get("deleted_there"):
                self._amend_followed(state.id, {"deleted_there": True})
            if state.data["stage"] in LIVE_STAGES:
                self.registry.set_stage(state.id, Stage.ARCHIVED)
            self.registry.delete_version(state.id)
            self._done.deleted += 1
            self._done.changed += 1
            self._progress(f"{what}: deleted there, and so here")

    def _follow_model(self, pair: _Pair, aliases: Mapping[str, int]) -> None:
        tags, lost = usable_tags(pair.there.tags, pair.there.name)
        text, cut = usable_text(pair.there.description, pair.there.name)
        seen = _seen(pair.here)
        new = {"description": text, "tags": tags, "aliases": dict(aliases)}
        if all(seen[name] == value for name, value in new.items()):
            return

        def edit(now: State, _: View) -> dict[str, Any]:
            metadata = dict(now.data["metadata"])
            before = metadata["mlflow"]
            edited = {
                "metadata": {**metadata, "mlflow": {**before, **new}},
                "tags": merged_tags(now.data["tags"], before["tags"], tags),
            }
            return edited | ({"description": text} if text != before["description"] else {})

        with _Listed(self._done.failed, f"{pair.there.name} is not followed"):
            self.registry.things.amend("follow_model", MODEL, pair.here.id, new, edit)
            self._done.left_out += lost + cut
            self._done.changed += tags != seen["tags"] or text != seen["description"]


class _Listed:
    """Lets one thing fail alone: what refused it becomes a sentence, and the import goes on."""

    def __init__(self, sentences: list[str], what: str) -> None:
        self._sentences = sentences
        self._what = what

    def __enter__(self) -> None:
        return None

    def __exit__(self, _: object, failure: BaseException | None, __: object) -> bool:
        if isinstance(failure, Unreachable | NoTrackingServer):
            return False
        if isinstance(failure, RegistryError | TrackingServerError):
            self._sentences.append(f"{self._what}: {failure}")
            return True
        return False


def _seen(state: State) -> Mapping[str, Any]:
    """What was last seen of a model there."""
    seen: Mapping[str, Any] = state.data["metadata"]["mlflow"]
    return seen


def _followed(state: State) -> Mapping[str, Any]:
    """What was last seen of a version there."""
    seen: Mapping[str, Any] = state.data["followed"]
    return seen


def mark(server: TrackingServer) -> str:
    """A digest of all that an import would look at: when it is another one, something changed there."""
    from ml_registry_pipelines.registry.canonical import digest

    return digest([sorted(_rows(server.models())), sorted(_rows(server.versions()))])


def _rows(found: Iterable[RegisteredModel | ModelVersion]) -> list[str]:
    return [json.dumps(vars(row), sort_keys=True) for row in found]
