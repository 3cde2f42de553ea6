"""The registry as assets: entries of its catalogue become asset specs, and the checks on them.

A state-backed component: what the registry says is read when a code location starts, kept
under a version, and read from there by every run of it. What is shown, and where it comes
from, is `lineage/catalogue.py`; when it is read anew, `sensors/registry.py`.
"""

import gzip
import hashlib
import json
import logging
import shlex
import tempfile
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import dagster as dg
from dagster._core.definitions.definitions_load_context import DefinitionsLoadContext, DefinitionsLoadType
from dagster._core.definitions.utils import is_valid_owner
from dagster._core.storage.defs_state.base import DefsStateStorage
from dagster._utils.tags import VALID_STRICT_TAG_VALUE_REGEX
from dagster.components.utils.defs_state import DefsStateConfig, DefsStateConfigArgs
from pydantic import Field

from ml_registry_pipelines import catalog_checks
from ml_registry_pipelines.errors import MlregError
from ml_registry_pipelines.lake.tables.registry import GOVERNANCE_EVENTS
from ml_registry_pipelines.lineage.catalogue import MOST, NEWEST, Catalogue, Entry
from ml_registry_pipelines.lineage.keys import key_of
from ml_registry_pipelines.settings import Settings

if TYPE_CHECKING:
    from ml_registry_pipelines.registry.log import Log

FORMAT = 5
"""Of the kept state; another one is read from the registry anew."""
KEPT_STATES = 10
"""States that stay in storage: runs in flight were planned on older ones. Without its own, a run reads anew."""
LOG_KEY = dg.AssetKey(["registry", "governance_events"])
EVERY_ROW = "every_row_is_shown"
STALENESS = "trained_on_current_data"
AI_ACT = "ai_act_class_is_settled"
GROUPS = {"dataset": "datasets", "model": "models", "model_version": "models", "deployment": "deployments"}
LONGEST_TEXT = 2_000
LONGEST_JSON = 8_000
MOST_FACTS = 120
OWNERS = ["team:ml-platform"]

_logger = logging.getLogger(__name__)


# -- one entry as an asset ---------------------------------------------------------------------


def asset_key(entry: Entry) -> dg.AssetKey:
    """The key under which an entry is shown."""
    return dg.AssetKey(key_of(entry.kind, entry.tenant, entry.name, number=entry.number, place=entry.place))


def asset_spec(entry: Entry, upstream: Collection[dg.AssetKey]) -> dg.AssetSpec:
    """An entry as an external asset. What Dagster refuses as owner or tag becomes metadata."""
    owners = [owner for owner in entry.owners if is_valid_owner(owner)]
    tags, others = _tags(entry)
    return dg.AssetSpec(
        asset_key(entry),
        deps=sorted(upstream),
        group_name=group_of(entry),
        owners=owners or None,
        kinds=_kinds(entry),
        tags=tags,
        description=_cut(entry.description or _describe(entry), LONGEST_TEXT),
        metadata=_metadata(entry, others, [owner for owner in entry.owners if owner not in owners]),
    )


def group_of(entry: Entry) -> str:
    """Group of an asset: a model with its versions is one, so that a graph of thousands folds into models.

    Tenants other than the default one have groups of their own.
    """
    parts = [GROUPS[entry.kind], *([] if entry.tenant == "default" else [entry.tenant])]
    if entry.kind in {"model", "model_version"}:
        parts.append(entry.name)
    return "/".join(_word(part) for part in parts)


def _word(text: str) -> str:
    """What a group's name can hold."""
    return "".join(c if c.isalnum() and c.isascii() else "_" for c in text)[:60] or "_"


def _describe(entry: Entry) -> str:
    match entry.kind:
        case "dataset":
            return f"Dataset {entry.name}. Its versions are its materializations."
        case "model":
            return f"Model {entry.name}. Its versions lie downstream of it, one asset for each that is in use or new."
        case "model_version":
            return f"Version {entry.number} of model {entry.name}, in stage {entry.place}."
        case _:
            return f"Deployment {entry.name} in {entry.place}, which serves {entry.facts.get('serves') or 'nothing'}."


def _kinds(entry: Entry) -> set[str]:
    match entry.kind:
        case "dataset":
            made_of = {"delta": "deltalake"}.get(str(entry.facts.get("format")), entry.facts.get("format"))
            return _as_kinds("dataset", made_of)
        case "model_version":
            return _as_kinds(entry.facts.get("framework") or entry.facts.get("form") or "model", entry.place)
        case kind:
            return _as_kinds(kind)


def _as_kinds(*given: object) -> set[str]:
    """Words that Dagster has icons for or shows as they are: letters, digits and _."""
    words = ("".join(c for c in str(word).lower() if c.isascii() and c.isalnum()) for word in given if word)
    return {word[:32] for word in words if word}


def _tags(entry: Entry) -> tuple[dict[str, str], dict[str, Any]]:
    """Tags that Dagster takes, and the others."""
    taken = {"mlreg/kind": entry.kind, "mlreg/tenant": entry.tenant}
    if VALID_STRICT_TAG_VALUE_REGEX.match(entry.place) and entry.place:
        taken["mlreg/environment" if entry.kind == "deployment" else "mlreg/stage"] = entry.place
    others: dict[str, Any] = {}
    for name, value in entry.tags.items():
        text = str(value).lower() if isinstance(value, bool) else str(value)
        # The same characters are allowed in keys, but not none of them. A key with a slash has a
        # namespace, and some of those are Dagster's own.
        fits = name and len(taken) < MOST_FACTS and name not in taken
        if fits and all(VALID_STRICT_TAG_VALUE_REGEX.fullmatch(part) for part in (name, text)):
            taken[name] = text
        else:
            others[f"tag {name}"] = value
    return taken, others


def _metadata(entry: Entry, tags: Mapping[str, Any], owners: Sequence[str]) -> dict[str, Any]:
    facts = dict(entry.facts)
    made: dict[str, Any] = {"name": dg.MetadataValue.text(_cut(entry.name, 500))}
    if entry.tenant != "default":
        made["tenant"] = dg.MetadataValue.text(entry.tenant)
    made |= _ways(entry)
    if entry.kind == "dataset":
        if isinstance(columns := facts.pop("columns", None), list):
            made["dagster/column_schema"] = _schema(columns)
        # To Python, true is a whole number.
        if isinstance(facts.get("rows"), int) and not isinstance(facts["rows"], bool):
            made["dagster/row_count"] = dg.MetadataValue.int(facts.pop("rows"))
        if isinstance(place := facts.pop("location", None), str):
            made["dagster/uri"] = dg.MetadataValue.text(_cut(place, LONGEST_TEXT))
    if entry.standing is not None:
        made["training data"] = dg.MetadataValue.text(_cut(entry.standing.sentence, LONGEST_TEXT))
    if owners:
        made["owners"] = dg.MetadataValue.text(_cut(", ".join(owners), LONGEST_TEXT))
    for name, value in [*facts.items(), *tags.items()]:
        if len(made) < MOST_FACTS and (shown := metadata_value(value)) is not None:
            # Keys below dagster/ have types of their own.
            label = _cut(name, 200)
            made.setdefault(f"given {label}" if label.startswith(("dagster/", "__")) else label, shown)
    return made


def _ways(entry: Entry) -> dict[str, dg.MetadataValue[Any]]:
    """Where to go from a model's or version's page."""
    if entry.kind == "model":
        from ml_registry_pipelines.search.relatives import search_address

        return {"search": dg.MetadataValue.url(search_address(entry.tenant, entry.id))}
    if entry.kind != "model_version":
        return {}
    ways: dict[str, dg.MetadataValue[Any]] = {}
    if entry.facts.get("form") in {"file", "folder"}:
        ways["download"] = dg.MetadataValue.url(f"/mlreg/artifacts/{entry.tenant}/{entry.id}")
    reference = shlex.quote(f"{entry.name}@v{entry.number}")
    ways["fetch it verified"] = dg.MetadataValue.text(f"mlreg get {reference} PATH")
    return ways


def metadata_value(value: object) -> dg.MetadataValue[Any] | None:
    """A JSON value as metadata; None for what says nothing."""
    match value:
        case None | "" | [] | {}:
            return None
        case bool():
            return dg.MetadataValue.bool(value)
        case int():
            return dg.MetadataValue.int(value)
        case float():
            return dg.MetadataValue.float(value)
        case str():
            return dg.MetadataValue.text(_cut(value, LONGEST_TEXT))
        case _:
            text = json.dumps(value, ensure_ascii=False, default=str)
            if len(text) > LONGEST_JSON:
                return dg.MetadataValue.text(_cut(text, LONGEST_TEXT))
            return dg.MetadataValue.json(json.loads(text))


def _schema(columns: Sequence[Any]) -> dg.MetadataValue[Any]:
    named = [c for c in columns if isinstance(c, Mapping) and c.get("name")][:1_000]
    return dg.MetadataValue.table_schema(
        dg.TableSchema(
            [dg.TableColumn(_cut(str(c["name"]), 500), _cut(str(c.get("type", "")), 500)) for c in named]
        )
    )


def _cut(text: str, most: int) -> str:
    """The text, without what no encoding can say, and not longer than that."""
    clean = text.encode("utf-8", "replace").decode()
    return clean if len(clean) <= most else f"{clean[: most - 1]}…"


# -- the whole catalogue ------------------------------------------------------------------------


@dataclass(frozen=True)
class Dropped:
    """An entry that cannot be shown, and why."""

    entry: Entry
    reason: str

    @property
    def sentence(self) -> str:
        of = self.entry
        number = "" if of.number is None else f"@v{of.number}"
        return f"{of.kind} {of.name[:200]!r}{number} of tenant {of.tenant} ({of.id}): {self.reason}"


@dataclass(frozen=True)
class Shown:
    """The assets of a catalogue, and what could not be made one."""

    specs: tuple[dg.AssetSpec, ...]
    entries: Mapping[dg.AssetKey, Entry]
    dropped: tuple[Dropped, ...]
    left_out: Mapping[str, int]
    unused: int = 0

    @property
    def everything(self) -> bool:
        """Whether nothing is missing."""
        return not self.dropped and not self.left_out

    @property
    def sentence(self) -> str:
        """What is missing, for a person."""
        missing = [dropped.sentence for dropped in self.dropped[:5]]
        if len(self.dropped) > 5:
            missing.append(f"{len(self.dropped) - 5} more")
        if self.left_out:
            counts = ", ".join(f"{n:,} of kind {kind}" for kind, n in self.left_out.items())
            missing.append(f"no room for {counts}: raise `most` in defs/catalog/defs.yaml")
        if missing:
            return "; ".join(missing)
        shown = f"{len(self.specs):,} assets show all that is to be shown."
        if not self.unused:
            return shown
        return (
            f"{shown} {self.unused:,} hosted models of imported catalogues become assets once they are used."
        )


def show(catalogue: Catalogue, *, besides: Collection[dg.AssetKey] = ()) -> Shown:
    """Every entry as an asset. An entry that cannot be one is dropped, and the others stay.

    Args:
        besides: keys that other assets of the location have, which are left to them.
    """
    keys: dict[str, dg.AssetKey] = {}
    dropped: list[Dropped] = []
    taken: dict[dg.AssetKey, Entry] = {}
    for entry in catalogue.entries:
        try:
            key = asset_key(entry)
        except (ValueError, dg.DagsterError) as wrong:
            dropped.append(Dropped(entry, _reason(wrong)))
            continue
        if key in taken:
            dropped.append(Dropped(entry, f"its key {key.to_user_string()} is that of {taken[key].id}"))
            continue
        keys[entry.id] = key
        taken[key] = entry
    own = set(besides)
    specs = []
    for key, entry in list(taken.items()):
        if key in own:
            continue
        try:
            upstream = {keys[i] for i in entry.upstream if i in keys and keys[i] != key}
            specs.append(asset_spec(entry, upstream))
        except (ValueError, TypeError, AttributeError, dg.DagsterError) as wrong:
            dropped.append(Dropped(entry, _reason(wrong)))
            del taken[key]
    for one in dropped:
        _logger.warning("not shown in the asset graph: %s", one.sentence)
    kept = {spec.key for spec in specs} | own
    whole = [spec.replace_attributes(deps=[d for d in spec.deps if d.asset_key in kept]) for spec in specs]
    return Shown(
        tuple(whole if dropped else specs), taken, tuple(dropped), catalogue.left_out, catalogue.unused
    )


def live_deployments(catalogue: Catalogue) -> dict[dg.AssetKey, str]:
    """Keys of the deployments that are shown, with their tenants."""
    return {asset_key(e): e.tenant for e in catalogue.entries if e.kind == "deployment"}


def _reason(wrong: Exception) -> str:
    return " ".join(str(wrong).split())[:300] or type(wrong).__name__


def check_specs(shown: Shown) -> list[dg.AssetCheckSpec]:
    """The checks on what is shown."""
    specs = [
        dg.AssetCheckSpec(
            EVERY_ROW,
            asset=LOG_KEY,
            description="Every dataset, model, live version and deployment of the registry is an asset, and so is "
            "every hosted model of an imported catalogue that is used.",
        )
    ]
    described = (
        "What it was trained on, or the version that it serves was, is the newest version of each dataset."
    )
    specs += [
        dg.AssetCheckSpec(STALENESS, asset=key, description=described)
        for key, entry in shown.entries.items()
        if entry.standing is not None
    ]
    specs += [
        dg.AssetCheckSpec(
            AI_ACT,
            asset=key,
            description="The class under the EU AI Act is not prohibited, follows from known facts and is current.",
        )
        for key, entry in shown.entries.items()
        if entry.ai_act is not None
    ]
    return [*specs, *catalog_checks.check_specs(shown.entries)]


def evaluations(shown: Shown, log: "Log | None" = None) -> Iterator[dg.AssetCheckEvaluation]:
    """What the checks say, from the registry's own answers; with a log, declared checks as well."""
    if log is not None:
        yield from catalog_checks.evaluations(log, shown.entries)
    yield dg.AssetCheckEvaluation(
        asset_key=LOG_KEY,
        check_name=EVERY_ROW,
        passed=shown.everything,
        severity=dg.AssetCheckSeverity.WARN,
        description=shown.sentence,
        metadata={"assets": len(shown.entries), "dropped": len(shown.dropped)},
    )
    for key, entry in shown.entries.items():
        if (standing := entry.standing) is not None:
            yield dg.AssetCheckEvaluation(
                asset_key=key,
                check_name=STALENESS,
                passed=not standing.stale,
                severity=dg.AssetCheckSeverity.WARN,
                description=_cut(_sentence(standing.sentence), LONGEST_TEXT),
                metadata={
                    "datasets compared": standing.compared,
                    **{
                        _cut(f"{b.dataset}", 200): f"trained on v{b.trained_on}, newest is v{b.newest}"
                        for b in standing.behind[:20]
                    },
                },
            )
        if entry.ai_act is not None:
            yield _class_evaluation(key, entry.ai_act)


def _class_evaluation(key: dg.AssetKey, recorded: Mapping[str, Any]) -> dg.AssetCheckEvaluation:
    from ml_registry_pipelines.compliance.ai_act.classifications import settled
    from ml_registry_pipelines.compliance.ai_act.table import Tier

    worst, why = settled(recorded, datetime.now(UTC).date())
    prohibited = worst is Tier.PROHIBITED
    said = f"gates treat it as {worst.value}" + (f", because {why}" if why else "")
    return dg.AssetCheckEvaluation(
        asset_key=key,
        check_name=AI_ACT,
        passed=not why and not prohibited,
        severity=dg.AssetCheckSeverity.ERROR if prohibited else dg.AssetCheckSeverity.WARN,
        description=_cut(_sentence(said), LONGEST_TEXT),
        metadata={"gates as": worst.value, "legal text": recorded["text_version"]},
    )


def _sentence(text: str) -> str:
    return f"{text[:1].upper()}{text[1:]}."


# -- the component ------------------------------------------------------------------------------


@dataclass(frozen=True)
class Read:
    """A catalogue as it was read, and the version under which it is kept."""

    catalogue: Catalogue
    position: int
    text: bytes
    digest: str
    version: str


class RegistryCatalog(dg.StateBackedComponent, dg.Model, dg.Resolvable):
    """Datasets, models, live versions and deployments of a registry as external assets.

    In a project of `dg`, a `defs.yaml` with this type shows a registry there.
    """

    home: str | None = Field(default=None, description="Folder or s3://bucket/prefix; default: MLREG_HOME.")
    most: int = Field(default=MOST, description="Assets at most; what is in use comes first.")
    newest_versions: int = Field(default=NEWEST, description="Versions per model whatever their stage.")
    leave: list[str] = Field(
        default_factory=list, description="Keys, as a/b/c, that assets of the same project define themselves."
    )

    @property
    def defs_state_config(self) -> DefsStateConfig:
        return DefsStateConfig.from_args(
            DefsStateConfigArgs.versioned_state_storage(), default_key=self.state_key
        )

    @property
    def state_key(self) -> str:
        """Under which name the state is kept; it becomes the name of a folder."""
        return f"RegistryCatalog-{hashlib.sha256(self.root.encode()).hexdigest()[:16]}"

    @property
    def root(self) -> str:
        """Where the registry lives."""
        if self.home is None:
            return Settings.from_environment().home
        return self.home.rstrip("/") if self.home.startswith("s3://") else str(Path(self.home).absolute())

    # -- reading and keeping ---------------------------------------------------------------

    def read(self, log: "Log | None" = None) -> Read:
        """Read the registry.

        Raises:
            MlregError: it cannot be read.
        """
        from ml_registry_pipelines.lineage.catalogue import read_catalogue
        from ml_registry_pipelines.search.relatives import with_relatives

        if log is None:
            with open_log(self.root) as opened:
                return self.read(opened) if opened is not None else _read(0, Catalogue())
        # Before the catalogue: what comes in between is read again, never missed.
        position = log.position()
        read = read_catalogue(log, most=self.most, newest=self.newest_versions)
        entries = catalog_checks.with_checks(log, with_relatives(log, read.entries))
        return _read(position, replace(read, entries=entries))

    def keep(self, read: Read, storage: DefsStateStorage) -> bool:
        """Keep what was read as the state of now; whether it differs from the last one."""
        key = self.state_key
        if (storage.get_latest_version(key) or "").rpartition("-")[2] == read.digest:
            return False
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "state"
            # Level 1: at 10,000 assets 10 MB become half a MB in a twentieth of a second.
            path.write_bytes(gzip.compress(read.text, 1))
            storage.upload_state_from_path(key, version=read.version, path=path)
        _purge(storage, key)
        return True

    def write_state_to_path(self, state_path: Path) -> None:
        """The registry's catalogue, for `dg utils refresh-defs-state`."""
        state_path.write_bytes(gzip.compress(self.read().text, 1))

    def current(self) -> Catalogue:
        """What a location that is being loaded shows.

        A location that starts reads the registry, if it has changed; a run takes what its
        location was loaded with. A registry that cannot be read costs news, never the location.
        """
        load, storage = DefinitionsLoadContext.get(), DefsStateStorage.get()
        key = self.state_key
        if load.load_type is DefinitionsLoadType.RECONSTRUCTION:
            known = load.get_defs_key_state_info(key)
            kept = self._kept(storage, known.version) if known is not None else None
            if kept is not None:
                return kept
        try:
            return self._read_and_keep(load, storage)
        except (MlregError, OSError, KeyError, TypeError, ValueError) as failure:
            # The last three would be a row that nobody has thought of: still no reason to lose the location.
            _logger.warning("the asset graph shows what the registry held before: %s", failure)
        version = storage.get_latest_version(key) if storage else None
        return (self._kept(storage, version) if version else None) or Catalogue()

    def _read_and_keep(self, load: DefinitionsLoadContext, storage: DefsStateStorage | None) -> Catalogue:
        key = self.state_key
        with open_log(self.root) as log:
            if log is None:
                return Catalogue()
            version = storage.get_latest_version(key) if storage is not None else None
            if version is not None and version.startswith(f"{FORMAT}-{log.last_position()}-"):
                kept = self._kept(storage, version)
                if kept is not None:
                    load.add_defs_state_info(key, version)
                    return kept
            read = self.read(log)
        if storage is not None:
            self.keep(read, storage)
            load.add_defs_state_info(key, storage.get_latest_version(key) or read.version)
        return read.catalogue

    def _kept(self, storage: DefsStateStorage | None, version: str) -> Catalogue | None:
        """A kept state; None where it is gone or was written by other code."""
        if storage is None or not version.startswith(f"{FORMAT}-"):
            return None
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "state"
            try:
                storage.download_state_to_path(self.state_key, version, path)
                return Catalogue.parse(json.loads(gzip.decompress(path.read_bytes())))
            except (ValueError, OSError, EOFError, KeyError, TypeError) as failure:
                _logger.warning("the kept state %s cannot be used: %s", version, failure)
                return None

    # -- definitions -------------------------------------------------------------------------

    def build_defs(self, context: dg.ComponentLoadContext) -> dg.Definitions:  # noqa: ARG002 - as it is called
        return self.definitions(show(self.current(), besides=self._left()))

    def build_defs_from_state(
        self,
        context: dg.ComponentLoadContext,  # noqa: ARG002 - as it is called
        state_path: Path | None,
    ) -> dg.Definitions:
        if state_path is None:
            return dg.Definitions()
        held = json.loads(gzip.decompress(state_path.read_bytes()))
        return self.definitions(show(Catalogue.parse(held), besides=self._left()))

    def definitions(self, shown: Shown) -> dg.Definitions:
        """The assets and their checks."""
        return dg.Definitions(assets=[log_spec(), *shown.specs], asset_checks=[self._checks(shown)])

    def _left(self) -> list[dg.AssetKey]:
        return [dg.AssetKey(key.split("/")) for key in self.leave]

    def _checks(self, shown: Shown) -> dg.AssetChecksDefinition:
        """All checks in one op without inputs, so that a run of it waits for and loads nothing."""
        specs = {f"check_{n}": spec for n, spec in enumerate(check_specs(shown))}

        @dg.op(
            name="registry_checks",
            out={name: dg.Out(dg.Nothing, is_required=False) for name in specs},
            description="Asks the registry; a sensor does the same whenever something changes.",
        )
        def registry_checks(context: dg.OpExecutionContext) -> Iterator[dg.AssetCheckResult]:
            chosen = context.selected_asset_check_keys
            with open_log(self.root) as log:
                now = show(self.read(log).catalogue)
                answers = list(evaluations(now, log))
            for found in answers:
                if found.asset_check_key in chosen:
                    yield dg.AssetCheckResult(
                        asset_key=found.asset_key,
                        check_name=found.check_name,
                        passed=found.passed,
                        severity=found.severity,
                        description=found.description,
                        metadata=found.metadata,
                    )

        made: dg.AssetChecksDefinition = dg.AssetChecksDefinition.create(
            node_def=registry_checks,
            keys_by_input_name={},
            check_specs_by_output_name=specs,
            can_subset=True,
        )
        return made


@contextmanager
def open_log(root: str) -> "Iterator[Log | None]":
    """The log of a registry; None where nothing was ever recorded, which costs no heavy import to see."""
    if not root.startswith("s3://") and not Path(root, "tables", "governance_events").is_dir():
        yield None
        return
    from ml_registry_pipelines.lake.lake import Lake
    from ml_registry_pipelines.registry.log import Log

    with Lake(root, process="catalog") as lake:
        if not lake.exists("governance_events"):
            yield None
            return
        with Log(lake) as log:
            yield log


def _read(position: int, catalogue: Catalogue) -> Read:
    text = json.dumps(catalogue.recorded(), separators=(",", ":")).encode()
    digest = hashlib.sha256(text).hexdigest()[:24]
    return Read(catalogue, position, text, digest, f"{FORMAT}-{position}-{digest}")


def _purge(storage: DefsStateStorage, key: str) -> None:
    """Remove old states where storage is a folder or bucket; elsewhere that is its own business."""
    from dagster._core.storage.defs_state import UPathDefsStateStorage

    if not isinstance(storage, UPathDefsStateStorage):
        return
    try:
        states = sorted((storage.base_path / key).iterdir(), key=lambda p: p.stat().st_mtime)
        for state in states[:-KEPT_STATES]:
            state.unlink(missing_ok=True)
    except OSError as failure:
        _logger.warning("old states of the asset graph were not removed: %s", failure)


def configured(home: str) -> RegistryCatalog:
    """The component as `defs/catalog/defs.yaml` describes it, for this registry where that names none."""
    described = _described()
    return described if described.home else described.model_copy(update={"home": home})


@cache
def _described() -> RegistryCatalog:
    from dagster.components.core.component_tree import ComponentTree

    from ml_registry_pipelines import defs

    tree = ComponentTree.from_module(defs_module=defs, project_root=Path(__file__).resolve().parent.parent)
    return tree.load_component("catalog", RegistryCatalog)


def log_spec() -> dg.AssetSpec:
    """The log of events, from which everything that is catalogued was folded."""
    columns = [
        dg.TableColumn(
            c.name, c.type, c.meaning, constraints=dg.TableColumnConstraints(nullable=not c.required)
        )
        for c in GOVERNANCE_EVENTS.columns
    ]
    return dg.AssetSpec(
        LOG_KEY,
        group_name="registry",
        owners=OWNERS,
        kinds={"deltalake"},
        description=f"One row is {GOVERNANCE_EVENTS.row}. The registry's only source of truth: models, versions, "
        "datasets and deployments are folded from it. `mlreg audit verify` checks it.",
        metadata={
            "dagster/column_schema": dg.TableSchema(columns),
            "dagster/table_name": GOVERNANCE_EVENTS.name,
        },
    )
