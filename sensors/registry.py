"""What is recorded in the registry shows in the asset graph: new nodes, their checks, their history."""

from __future__ import annotations

import json
import time
from collections.abc import Collection, Iterator
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING

import dagster as dg
from dagster._core.definitions.asset_checks.asset_check_evaluation import (
    AssetCheckEvaluationTargetMaterializationData,
)
from dagster_shared.record import replace as replace_record

from ml_registry_pipelines import catalog
from ml_registry_pipelines.lineage.mirroring import Report, reports
from ml_registry_pipelines.search.relatives import relatives_mark
from resources import RegistryResource, WebServersResource
from resources.instigators import SENSOR_SECONDS

if TYPE_CHECKING:
    from ml_registry_pipelines.registry.events import Event
    from ml_registry_pipelines.registry.log import Log

LOCATION = "ml_registry_pipelines.definitions"
EMPTY = "nothing is registered yet"
TICK_SECONDS = 45.0
"""What a tick may take; after a minute the daemon gives it up, and its cursor with it."""
LONGEST_REST = 30.0
RETRY_SECONDS = 15.0
EVENTS_AT_ONCE = 500
CHECKS_AT_ONCE = 400
"""Fewer than the variables that a statement of SQLite may have."""
MOST_WAITING = 1_000
HISTORY = 50
"""Newest events of an asset that are looked at, to see what was written before; older ones count as written."""
UNFINISHED = {
    dg.DagsterRunStatus.QUEUED,
    dg.DagsterRunStatus.NOT_STARTED,
    dg.DagsterRunStatus.STARTING,
    dg.DagsterRunStatus.STARTED,
    dg.DagsterRunStatus.CANCELING,
}


@dataclass(frozen=True)
class _Shown:
    """Cursor of `registry_changes`: up to where the log was read, what is shown and checked, and a rest.

    `relatives` is the mark of the models' nearest relatives, which follow the vectors and not the log.
    `made`: the newest materialization of which is known whether it is one of the registry's assets.
    """

    position: int = -1
    shown: str = ""
    checked: str = ""
    rest_until: float = 0.0
    made: int = 0
    relatives: str = ""

    @classmethod
    def parse(cls, cursor: str | None) -> _Shown:
        try:
            return cls(**json.loads(cursor)) if cursor else cls()
        except (ValueError, TypeError):
            return cls()

    def text(self) -> str:
        return json.dumps(asdict(self))


@dg.sensor(
    name="registry_changes",
    minimum_interval_seconds=SENSOR_SECONDS["registry_changes"],
    default_status=dg.DefaultSensorStatus.RUNNING,
)
def registry_changes(
    context: dg.SensorEvaluationContext, registry: RegistryResource, web_servers: WebServersResource
) -> dg.SkipReason:
    """Lets the asset graph be loaded again when the registry changed, and says how versions stand to their data.

    After each time it rests for as long as that took, so that a thousand changes are not a thousand loads.
    """
    if registry.is_empty():
        return dg.SkipReason(EMPTY)
    before = _Shown.parse(context.cursor)
    log, now = registry.log(), time.time()
    made, ours = _made(context.instance, before.made)
    relatives = relatives_mark(log.lake)
    seen = (before.position, before.checked, before.relatives)
    if (log.last_position(), before.shown, relatives) == seen and not ours:
        if made != before.made:
            context.update_cursor(replace(before, made=made).text())
        return dg.SkipReason("the graph shows what the registry holds")
    if now < before.rest_until:
        return dg.SkipReason(f"a change waits {before.rest_until - now:.0f} seconds for others")
    started = time.perf_counter()
    component = catalog.configured(registry.root)
    read = component.read(log)
    storage = context.instance.defs_state_storage
    if storage is not None:
        component.keep(read, storage)
    problems: list[str] = []
    if read.digest != before.shown:
        origin = context.code_location_origin
        left = max(started + TICK_SECONDS - time.perf_counter(), 5.0)
        problems = web_servers.reload(
            origin.location_name if origin is not None else LOCATION,
            seconds=left / max(len(web_servers.addresses), 1),
        )
    rest = RETRY_SECONDS if problems else min(time.perf_counter() - started, LONGEST_REST)
    shown = before.shown if problems else read.digest
    after = replace(
        before,
        position=read.position,
        shown=shown,
        rest_until=time.time() + rest,
        made=made,
        relatives=relatives,
    )
    if problems:
        after = replace(after, position=-1)
    reported, complete = _report_checks(
        context.instance, catalog.show(read.catalogue), log, until=started + TICK_SECONDS
    )
    context.update_cursor(replace(after, checked=shown if complete else "").text())
    loaded = f"not shown yet: {'; '.join(problems)}" if problems else "the graph is loaded"
    return dg.SkipReason(
        f"{len(read.catalogue.entries)} assets, {loaded}; {reported} checks say something new"
    )


def _made(instance: dg.DagsterInstance, after: int) -> tuple[int, bool]:
    """The newest materialization that was looked at, and whether one since was of an asset of the registry.

    A training run ends after the event by which it registered its version. Dagster shows a check as not
    evaluated once its asset was made anew, whatever it says of the model.
    """
    storage, kind = instance.event_log_storage, dg.DagsterEventType.ASSET_MATERIALIZATION
    if not after:
        newest = storage.get_event_records(dg.EventRecordsFilter(kind), limit=1)
        return (newest[0].storage_id if newest else 0), bool(newest)
    records = storage.get_event_records(
        dg.EventRecordsFilter(kind, after_cursor=after), limit=EVENTS_AT_ONCE, ascending=True
    )
    keys = (record.asset_key for record in records)
    return (
        records[-1].storage_id if records else after,
        any(key is not None and key.path[0] in catalog.GROUPS.values() for key in keys),
    )


def _report_checks(
    instance: dg.DagsterInstance, shown: catalog.Shown, log: Log, *, until: float
) -> tuple[int, bool]:
    """Report what the checks say where it differs from what they said last; how many, and whether all are done.

    What was said before its asset was made anew is said again.
    """
    found = list(catalog.evaluations(shown, log))
    reported = 0
    for first in range(0, len(found), CHECKS_AT_ONCE):
        some = found[first : first + CHECKS_AT_ONCE]
        last = instance.event_log_storage.get_latest_asset_check_execution_by_key(
            [evaluation.asset_check_key for evaluation in some]
        )
        made = _last_made(instance, {evaluation.asset_key for evaluation in some})
        for evaluation in some:
            record = last.get(evaluation.asset_check_key)
            event = record.event if record is not None else None
            said = event.dagster_event.event_specific_data if event and event.dagster_event else None
            about = made.get(evaluation.asset_key)
            if (
                isinstance(said, dg.AssetCheckEvaluation)
                and (about is None or said.target_materialization_data == about)
                and said.passed == evaluation.passed
                and said.description == evaluation.description
            ):
                continue
            if time.perf_counter() > until and reported:
                return reported, False
            # By its id: times of checks are kept in whole seconds.
            instance.report_runless_asset_event(replace_record(evaluation, target_materialization_data=about))
            reported += 1
    return reported, True


def _last_made(
    instance: dg.DagsterInstance, keys: Collection[dg.AssetKey]
) -> dict[dg.AssetKey, AssetCheckEvaluationTargetMaterializationData]:
    """The newest materialization of assets, as checks point at one; nothing of those that never were made."""
    found = {}
    for record in instance.get_asset_records(list(keys)):
        event = record.asset_entry.last_materialization_record
        if event is not None:
            found[record.asset_entry.asset_key] = AssetCheckEvaluationTargetMaterializationData(
                storage_id=event.storage_id, run_id=event.run_id, timestamp=event.timestamp
            )
    return found


# -- history ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Mirrored:
    """Cursor of `registry_events`: how far the log is mirrored, and events whose run is not over yet."""

    position: int = 0
    skip: int = 0
    waiting: list[int] = field(default_factory=list)

    @classmethod
    def parse(cls, cursor: str | None) -> _Mirrored:
        try:
            return cls(**json.loads(cursor)) if cursor else cls()
        except (ValueError, TypeError):
            return cls()

    def text(self) -> str:
        return json.dumps(asdict(self))


@dg.sensor(
    name="registry_events",
    minimum_interval_seconds=SENSOR_SECONDS["registry_events"],
    default_status=dg.DefaultSensorStatus.RUNNING,
)
def registry_events(context: dg.SensorEvaluationContext, registry: RegistryResource) -> dg.SkipReason:
    """Writes dataset versions, model versions and deployments into the history of their assets.

    It reads the log from its cursor, and an asset's history says how far that is: reset the
    cursor, and what is missing is written again, and nothing twice.
    """
    if registry.is_empty():
        return dg.SkipReason(EMPTY)
    before = _Mirrored.parse(context.cursor)
    log = registry.log()
    head = log.last_position()
    if head < before.position:
        before = _Mirrored()
    if head == before.position and not before.waiting:
        return dg.SkipReason("every event is in the history of its asset")
    # Read after the head: an event that is newer than the catalogue would find no asset in it.
    mirror = _Mirror(context.instance, log, catalog.configured(registry.root).read(log))
    waiting = [n for n in before.waiting if mirror.take(log.between(n, n)[0]) is None]
    position, skip = before.position, before.skip
    for event in log.between(position + 1, min(head, position + EVENTS_AT_ONCE)):
        if mirror.written and time.monotonic() > mirror.until:
            break
        left = mirror.take(event, skip=skip)
        if left is None and len(waiting) < MOST_WAITING:
            waiting.append(event.position)
        elif left:
            skip = left
            break
        position, skip = event.position, 0
    context.update_cursor(_Mirrored(position, skip, waiting).text())
    return dg.SkipReason(
        f"{mirror.written} written, up to event {position} of {head}, {len(waiting)} wait for runs"
    )


class _Mirror:
    """Reports events to one instance, until its time is over."""

    def __init__(self, instance: dg.DagsterInstance, log: Log, read: catalog.Read) -> None:
        self.instance = instance
        self.log = log
        self.shown = {entry.id: entry for entry in read.catalogue.entries}
        self.until = time.monotonic() + TICK_SECONDS / 2
        self.written = 0
        self._written: dict[dg.AssetKey, set[int]] = {}

    def take(self, event: Event, *, skip: int = 0) -> int | None:
        """Report an event: 0 when it is done, how many of its entities are when time is over.

        None when it has to wait, for a run may still say itself what it made.
        """
        if event.run_id is not None and self._is_under_way(event.run_id):
            return None
        done = skip
        for report in reports(self.log, event, self.shown, skip=skip):
            if report is not None and self._is_news(report):
                if time.monotonic() > self.until and done > skip:
                    return done
                self._report(report)
            done += 1
        return 0

    def _is_under_way(self, run_id: str) -> bool:
        run = self.instance.get_run_by_id(run_id)
        return run is not None and run.status in UNFINISHED

    def _is_news(self, report: Report) -> bool:
        key = dg.AssetKey(report.key)
        if key not in self._written:
            self._written[key] = set(self._positions(key))
        written = self._written[key]
        if report.position in written or (len(written) >= HISTORY and report.position < min(written)):
            return False
        return report.run_id is None or not self._said_by_its_run(report.run_id, key)

    def _positions(self, key: dg.AssetKey) -> Iterator[int]:
        """Positions of the newest events that were written into the asset's history."""
        fetched = (
            self.instance.fetch_materializations(key, limit=HISTORY),
            self.instance.fetch_observations(key, limit=HISTORY),
        )
        for found in fetched:
            for record in found.records:
                told = record.asset_materialization or (
                    record.event_log_entry.dagster_event.asset_observation_data.asset_observation
                    if record.event_log_entry.dagster_event is not None
                    else None
                )
                held = told.metadata.get("event") if told is not None else None
                if isinstance(held, dg.TextMetadataValue) and (held.text or "").isdecimal():
                    yield int(held.text or 0)

    def _said_by_its_run(self, run_id: str, key: dg.AssetKey) -> bool:
        made = self.instance.all_logs(run_id, of_type=dg.DagsterEventType.ASSET_MATERIALIZATION)
        return any(entry.dagster_event is not None and entry.dagster_event.asset_key == key for entry in made)

    def _report(self, report: Report) -> None:
        key = dg.AssetKey(report.key)
        facts = {name: catalog.metadata_value(value) for name, value in report.facts.items()}
        metadata = {name: value for name, value in facts.items() if value is not None}
        metadata["event"] = dg.MetadataValue.text(str(report.position))  # no number: those are plotted
        kind = dg.AssetMaterialization if report.materialized else dg.AssetObservation
        self.instance.report_runless_asset_event(
            kind(asset_key=key, description=report.description, metadata=metadata, tags=_tags(report))
        )
        self._written[key].add(report.position)
        self.written += 1


def _tags(report: Report) -> dict[str, str]:
    """Provenance as an executable asset of that key would leave it, for Dagster's own mark of staleness."""
    tags = {}
    if report.data_version is not None:
        tags["dagster/data_version"] = report.data_version
    if report.code_version is not None:
        tags["dagster/code_version"] = report.code_version
    for key, digest in report.inputs.items():
        name = dg.AssetKey(key).to_user_string()
        tags[f"dagster/input_data_version/{name}"] = digest
        tags[f"dagster/input_event_pointer/{name}"] = "NULL"
    return tags
