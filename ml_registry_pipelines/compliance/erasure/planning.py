"""The plan of an erasure: everything that may hold one person or derive from them, and what becomes of it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from ml_registry_pipelines.compliance.erasure.homes import place_of
from ml_registry_pipelines.compliance.erasure.landing import Mention, mentions
from ml_registry_pipelines.compliance.erasure.requests import Action, Item, checked_ground
from ml_registry_pipelines.compliance.erasure.searching import Found, Hit, Root, search
from ml_registry_pipelines.compliance.erasure.subjects import Subject
from ml_registry_pipelines.compliance.erasure.tables import OF_THE_LOG, REQUESTS, Linked, holding, linked
from ml_registry_pipelines.lake.files import Folder, LocalFolder, open_folder
from ml_registry_pipelines.lineage.tracker import LineageTracker
from ml_registry_pipelines.registry.cache import Cache
from ml_registry_pipelines.registry.errors import InvalidInput
from ml_registry_pipelines.registry.projections import STATES
from ml_registry_pipelines.registry.shredding import SubjectKeys

if TYPE_CHECKING:
    from ml_registry_pipelines.lake.lake import Lake
    from ml_registry_pipelines.telemetry.sources import Sources

LOG_GROUND = (
    "17(3)(b): the audit trail of decisions is kept by law (AI Act Art. 12, 18 and 19); "
    "personal fields in it are erased by destroying their key"
)
_TABLES = "tables/"


@dataclass(frozen=True)
class Plan:
    """All that may hold or derive from a subject. `problems`: what could not be looked into, a sentence each."""

    tenant: str
    subject: str
    items: tuple[Item, ...]
    problems: tuple[str, ...]
    linked: Linked
    raw_files: tuple[Mention, ...]
    loose: tuple[Hit, ...]

    @property
    def open(self) -> tuple[Item, ...]:
        """What people have to do, and have not justified to stay."""
        return tuple(i for i in self.items if not i.done_by_us and i.action is not Action.JUSTIFY)


def roots_of(lake: Lake, dagster_home: Path | None, sources: Sources | None = None) -> list[Root]:
    """Every place that may hold a person's data: storage, Dagster's home, caches, folders for spilling, sources."""
    storage = open_folder(lake.root, lake.storage_options)
    roots = [Root("storage", storage)]
    places: list[tuple[str, Folder]] = []
    if dagster_home is not None:
        places.append(("Dagster", LocalFolder(dagster_home)))
    cache = Cache.from_environment(lake.root)
    if cache is not None:
        places.append(("cache", LocalFolder(cache.root)))
    places.extend((f"source {source.name}", source.files) for source in sources or ())
    for name, folder in places:
        if not any(_within(folder, other.folder) for other in roots):
            roots.append(Root(name, folder))
    return roots


def _within(folder: Folder, other: Folder) -> bool:
    return f"{folder.uri.rstrip('/')}/".startswith(f"{other.uri.rstrip('/')}/")


def plan(
    lake: Lake,
    tracker: LineageTracker,
    sources: Sources,
    subject: Subject,
    *,
    dagster_home: Path | None,
    datasets: Sequence[str] = (),
    justified: Mapping[str, str] | None = None,
) -> Plan:
    """Walk tables, raw files, other files and the lineage graph.

    Args:
        datasets: names of datasets or of their versions that hold the person somewhere else.
        justified: ids of items that stay, with their ground of Art. 17(3).

    Raises:
        NotFound: there is no such dataset.
        InvalidInput: what is justified is no item, or not by a ground.
    """
    known = linked(lake, subject)
    items = list(_tables(lake, subject, known))
    if keys := SubjectKeys(lake).ids_of(subject.tenant, subject.identifiers):
        reason = "personal fields in the log read `erased` once their key is destroyed"
        items.append(Item("keys", "key of personal fields", "subject_keys", Action.DELETE, len(keys), reason))
    raw, problems = mentions(list(sources), subject.needles, known.files)
    items += [
        Item(
            f"file:{m.source}/{m.path}",
            "raw file",
            f"{m.source}: {m.path}",
            Action.DELETE,
            1,
            "rewritten without them",
        )
        for m in raw
    ]
    roots = roots_of(lake, dagster_home, sources)
    found = search(roots, subject.needles)
    problems += found.problems
    loose = _loose(found, raw)
    items += _files(loose)
    items += _derived(tracker, loose, datasets)
    items = _with_grounds(items, justified or {})
    return Plan(
        subject.tenant,
        subject.pseudonym,
        tuple(sorted(items, key=_order)),
        tuple(dict.fromkeys(problems)),
        known,
        tuple(raw),
        tuple(loose),
    )


def _tables(lake: Lake, subject: Subject, known: Linked) -> Iterator[Item]:
    for held in holding(lake, subject, known):
        amount = held.rows + held.mentions
        if held.table in OF_THE_LOG:
            yield Item(
                f"table:{held.table}",
                "log" if held.table == "governance_events" else "projection of the log",
                held.table,
                Action.JUSTIFY,
                amount,
                "never rewritten, so that its chain of hashes holds",
                ground=LOG_GROUND,
            )
            continue
        reason = "rows about them, and identifiers in other rows"
        if held.table == REQUESTS:
            reason = "user, session, trace and event id go; amounts stay, so that sums stay exact"
        yield Item(f"table:{held.table}", "table", held.table, Action.DELETE, amount, reason)


def _loose(found: Found, raw: Iterable[Mention]) -> list[Hit]:
    """Hits in files that are neither tables nor raw files, each file once."""
    theirs = {mention.path for mention in raw}
    hits: dict[tuple[str, str], Hit] = {}
    for hit in found.hits:
        raw_file = hit.root.startswith("source ") or hit.path in theirs
        landed = hit.path.removeprefix("landing/") in theirs or raw_file
        if hit.path.startswith(_TABLES) or (landed and hit.root != "Dagster"):
            continue
        hits.setdefault((hit.root, hit.path), hit)
    return list(hits.values())


def group_of(hit: Hit) -> str:
    """The item that a file belongs to."""
    if hit.root != "storage":
        return f"place:{hit.root}"
    place = place_of(hit.path)
    return f"place:{place.name}" if place else f"file:{hit.path}"


def _files(loose: Iterable[Hit]) -> Iterator[Item]:
    groups = Counter(group_of(hit) for hit in loose)
    for group, amount in sorted(groups.items()):
        _, name = group.split(":", 1)
        match name:
            case "report":
                yield Item(
                    group, "report", "reports/", Action.REMATERIALISE, amount, "removed, to be made again"
                )
            case "search index":
                reason = "removed, and made anew from the log"
                yield Item(group, name, "search_index/", Action.REMATERIALISE, amount, reason)
            case "Dagster":
                reason = "identifiers in run, event and process logs are replaced, and the databases vacuumed"
                yield Item(group, "Dagster's home", "Dagster's home", Action.DELETE, amount, reason)
            case "cache" | "written aside":
                yield Item(group, name, name, Action.DELETE, amount, "removed")
            case "artifact":
                reason = "files of datasets or versions: make them again without the person, then purge these"
                yield Item(
                    group, "artifact", "artifacts/", Action.REMATERIALISE, amount, reason, done_by_us=False
                )
            case "vectors":
                reason = "their rows go from every version; indices over words are dropped, to be made again"
                yield Item(group, "vectors", "vectors/", Action.DELETE, amount, reason)
            case _:
                yield Item(
                    group,
                    "file",
                    name,
                    Action.DELETE,
                    amount,
                    "of no known kind: remove it",
                    done_by_us=False,
                )


def _derived(tracker: LineageTracker, loose: Iterable[Hit], datasets: Sequence[str]) -> Iterator[Item]:
    """Datasets that hold the person and all that was made from them; versions that serve come first."""
    roots = [("dataset", name) for name in datasets]
    digests = {hit.path.rsplit("/", 1)[-1].split(".")[0] for hit in loose if "artifacts/" in hit.path}
    roots += list(_users_of(tracker, digests))
    seen: dict[str, Item] = {}
    for kind, name in dict.fromkeys(roots):
        impact = tracker.get_impact_analysis(kind, name)
        for node in impact.roots:
            _note(seen, node.type, node.id, node.name, ())
        for reached in (r for listed in impact.affected.values() for r in listed):
            live = tuple(d.node.name for d in impact.deployments if reached.node.id in d.path)
            _note(seen, reached.node.type, reached.node.id, reached.node.name, live)
    yield from seen.values()


def _note(seen: dict[str, Item], kind: str, entity: str, name: str, live: tuple[str, ...]) -> None:
    match kind:
        case "dataset" | "dataset_version" | "feature" | "evaluation":
            action, reason = Action.REMATERIALISE, "made again without the person"
        case "model_version":
            action, reason = Action.RETRAIN, "learned from data with the person in it"
        case _:
            return
    before = seen.get(entity)
    served = tuple(sorted({*live, *(before.live if before else ())}))
    seen[entity] = Item(entity, kind, name, action, 1, reason, done_by_us=False, live=served)


def _users_of(tracker: LineageTracker, digests: Iterable[str]) -> Iterator[tuple[str, str]]:
    """Datasets and versions whose state names one of these files, or a manifest that lists one."""
    from ml_registry_pipelines.lake.files import FilesError

    wanted = set(digests)
    if not wanted:
        return
    lake = tracker.log.lake
    folder = open_folder(f"{lake.root}/artifacts", lake.storage_options)
    try:
        for entry in folder.entries("manifests"):
            text = folder.read(entry.path).decode("utf-8", "replace")
            if any(digest in text for digest in wanted):
                wanted.add(entry.path.rsplit("/", 1)[-1].removesuffix(".json"))
    except FilesError as failure:
        raise InvalidInput(f"the manifests of artifacts cannot be read: {failure}") from failure
    view = tracker.view()
    for table in STATES:
        for digest in sorted(wanted):
            for state in view.select(
                "erasure.users", table, "contains(state, $digest)", parameters={"digest": digest}
            ):
                if state.entity_type in {"dataset", "dataset_version", "model_version"}:
                    yield state.entity_type, state.id


def _with_grounds(items: list[Item], justified: Mapping[str, str]) -> list[Item]:
    ids = {item.id for item in items}
    if unknown := sorted(set(justified) - ids):
        raise InvalidInput(
            f"{unknown[0]!r} is no item of the plan, so it cannot be justified; `mlreg gdpr plan` lists them"
        )
    for item_id, ground in justified.items():
        checked_ground(ground)
        if item_id == f"table:{REQUESTS}":
            raise InvalidInput(
                "requests keep their amounts as it is; nothing else of them can be justified to stay"
            )
    return [
        replace(item, action=Action.JUSTIFY, ground=justified[item.id]) if item.id in justified else item
        for item in items
    ]


def _order(item: Item) -> tuple[int, int, str]:
    """Versions that serve now first, then what else people have to do, then the rest."""
    return (0 if item.live else 1, 0 if not item.done_by_us else 1, item.id)
