"""`Evaluations`: which data, columns and suites a version is checked with, as commands on the log.

A declaration belongs to one version and says where its evaluation data are: rows that are recorded in
the table `evaluation_data`, files, or a dataset version. How columns become what metrics read is
in `evaluation_rows.py`. Metrics call `evaluation`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ml_registry_pipelines.compliance.evaluation_rows import (
    Columns,
    Evaluation,
    EvaluationProblem,
    Outcome,
    Task,
    normalised,
)
from ml_registry_pipelines.compliance.evaluation_store import (
    TABLE,
    forget_newly_erased,
    kept_rows,
    not_erased,
    recorded_rows,
)
from ml_registry_pipelines.compliance.served_rows import Served, served_rows
from ml_registry_pipelines.lineage.contents import read_content
from ml_registry_pipelines.lineage.fingerprints import fingerprint
from ml_registry_pipelines.registry.canonical import canonical, digest
from ml_registry_pipelines.registry.commands import Change
from ml_registry_pipelines.registry.desk import Desk, state_of
from ml_registry_pipelines.registry.errors import InvalidInput, NotFound, shown
from ml_registry_pipelines.registry.events import new_id
from ml_registry_pipelines.registry.names import checked_text
from ml_registry_pipelines.registry.references import dataset_state, named, version_state
from ml_registry_pipelines.registry.states import State

if TYPE_CHECKING:
    import pyarrow as pa

    from ml_registry_pipelines.compliance.metrics import Context
    from ml_registry_pipelines.lake.lake import Lake
    from ml_registry_pipelines.registry.view import View

__all__ = [
    "Columns",
    "DeclaredEvaluation",
    "Evaluation",
    "EvaluationProblem",
    "Evaluations",
    "Outcome",
    "Served",
    "Task",
    "declared_evaluation",
    "evaluation",
    "evaluation_data_of",
]

KIND = "evaluation_declaration"
SOURCE = "evaluations"
MOST_ROWS = 1_000_000
"""Rows that are recorded in one commit."""
_SUITE = re.compile(r"[a-z0-9][a-z0-9_-]{0,62}")


class Where(Enum):
    """Where the rows are."""

    TABLE = "table"
    FILE = "file"
    DATASET = "dataset"


@dataclass(frozen=True)
class DeclaredEvaluation:
    """What a version is checked with, in one state.

    Attributes:
        fingerprint: of files or the dataset version, as they were when this was declared.
        suites: names of suite files.
        served: where predictions in production are; None: rows that are recorded.
    """

    tenant: str
    id: str
    model_id: str
    version_id: str
    columns: Columns
    where: Where
    suites: tuple[str, ...]
    dataset_version_id: str | None = None
    fingerprint: Mapping[str, Any] = field(default_factory=dict)
    served: Served | None = None
    note: str = ""
    removed: bool = False
    sequence: int = 0
    recorded_at: datetime | None = None
    actor: str = ""

    @property
    def digest(self) -> str:
        """SHA-256 of what was declared, whoever did it and when."""
        return digest(self.recorded()["metadata"])

    def recorded(self) -> dict[str, Any]:
        """The state as the log keeps it."""
        return {
            "name": self.version_id,
            "parent_id": self.model_id,
            "description": self.note,
            "status": "active",
            "deleted": self.removed,
            "metadata": {
                "version_id": self.version_id,
                "columns": self.columns.recorded(),
                "where": self.where.value,
                "suites": list(self.suites),
                "dataset_version_id": self.dataset_version_id,
                "fingerprint": dict(self.fingerprint),
                # What was declared before there was this one keeps its digest, and so its approvals.
                **({"served": self.served.recorded()} if self.served else {}),
            },
        }


class Evaluations(Desk):
    """Declared evaluations of one tenant, for one actor. Every command is one atomic commit."""

    def declare_evaluation(
        self,
        version: str,
        columns: Columns,
        *,
        suites: Sequence[str],
        data: str | Path | None = None,
        served: Served | None = None,
        note: str = "",
        idempotency_key: str | None = None,
    ) -> DeclaredEvaluation:
        """Say by which data, columns and suites a version is checked; what was declared before is replaced.

        Args:
            version: `credit-risk@v3`, or an id.
            data: None: rows that `record_evaluation` records; `credit@v2`: a dataset version; else the
                path of a Parquet or CSV file, of a folder of them, or of a Delta table. What lies there
                is fingerprinted now; other data there later are refused.
            suites: names of suites, each the name of a file without `.yaml`.
            served: predictions in production are the requests that the version answered, with labels from
                `outcomes`; None: rows that `record_evaluation` records for production.

        Raises:
            NotFound, VersionNotFound, Deleted: there is no such version, or no such dataset version.
            InvalidInput: columns or suites cannot be meant, or the data have no such column.
            DatasetUnreadable: the data cannot be read.
        """
        columns = columns.checked()
        served = served.checked(columns) if served is not None else None
        wanted = checked_suites(suites)
        note = checked_text(note, "note")
        where, printed = self._printed(data, columns)
        asked = {
            "of": version,
            "columns": columns.recorded(),
            "suites": list(wanted),
            "data": None if data is None else str(data),
            "digest": printed.get("digest"),
            "note": note,
            **({"served": served.recorded()} if served else {}),
        }

        def decide(view: View) -> list[Change]:
            state = version_state(view, version)
            source = dataset_state(view, str(data)) if where is Where.DATASET else None
            new = DeclaredEvaluation(
                tenant=view.tenant,
                id=new_id(),
                model_id=str(state.data["model_id"]),
                version_id=state.id,
                columns=columns,
                where=where,
                suites=wanted,
                dataset_version_id=None if source is None else source.id,
                fingerprint=printed,
                served=served,
                note=note,
            )
            old = _found(view, state.id)
            if old is not None:
                new = replace(new, id=old.id)
                if canonical(old.recorded()) == canonical(new.recorded()):
                    return []
            return [Change(KIND, new.id, new.recorded())]

        done = self.do("declare_evaluation", KIND, asked, decide, idempotency_key=idempotency_key)
        if done.events:
            return _declared(state_of(done))
        view = self.now()
        found = _found(view, version_state(view, version).id)
        assert found is not None
        return found

    def preview(
        self, version: str, columns: Columns, *, suites: Sequence[str], data: str | Path
    ) -> Evaluation:
        """What metrics would read if this were declared.

        Raises:
            As `declare_evaluation`, and EvaluationProblem: a column does not hold what is declared.
        """
        columns = columns.checked()
        where, printed = self._printed(data, columns)
        state = version_state(self.view(), version)
        given = DeclaredEvaluation(
            tenant=self.tenant,
            id="",
            model_id=str(state.data["model_id"]),
            version_id=state.id,
            columns=columns,
            where=where,
            suites=checked_suites(suites),
            fingerprint=printed,
        )
        return evaluation_data_of(self.log.lake, given)

    def withdraw_evaluation(self, version: str, *, idempotency_key: str | None = None) -> DeclaredEvaluation:
        """Take back what was declared of a version; the log keeps it, and nothing checks it any more.

        Raises:
            NotFound: nothing is declared of it.
        """

        def decide(view: View) -> list[Change]:
            old = declared_evaluation(view, version)
            return [Change(KIND, old.id, {**old.recorded(), "deleted": True})]

        done = self.do("withdraw_evaluation", KIND, {"of": version}, decide, idempotency_key=idempotency_key)
        return _declared(state_of(done))

    def get_evaluation(self, version: str, *, as_of: datetime | None = None) -> DeclaredEvaluation:
        """What is declared of a version.

        Raises:
            NotFound: nothing is.
        """
        return declared_evaluation(self.view(as_of), version)

    def list_evaluations(self, *, as_of: datetime | None = None) -> list[DeclaredEvaluation]:
        """All that are declared, in the order in which they were."""
        return declared_evaluations(self.view(as_of))

    def record_evaluation(self, version: str, rows: pa.Table, *, origin: str = "evaluation") -> str:
        """Keep predictions of a version, with the columns that are declared; return the id of these rows.

        Of those that were recorded for `evaluation` the newest commit counts, of `production` all. Columns
        that are not declared are not kept.

        Args:
            rows: at most 1,000,000. Those about people who were erased are left out.
            origin: `evaluation` or `production`; of the latter each row has its time.

        Raises:
            NotFound: nothing is declared of the version, or its data are elsewhere.
            EvaluationProblem: a column is missing or does not hold what was declared.
        """
        from ml_registry_pipelines.telemetry.ingestion import user_salt

        given = self.get_evaluation(version)
        self.ask("record_evaluation", KIND, {"of": given.version_id, "rows": rows.num_rows})
        if origin not in {"evaluation", "production"}:
            raise InvalidInput(f"{shown(origin)} is no origin of predictions; it is evaluation or production")
        if given.served is not None and origin == "production":
            raise InvalidInput(
                f"what {shown(version)} predicts in production is declared to be the requests that it answers; "
                "declare it without, to record rows"
            )
        if given.where is not Where.TABLE and origin == "evaluation":
            raise InvalidInput(
                f"the evaluation of {shown(version)} is declared to be in "
                f"{given.fingerprint.get('location')}; declare it without data to record rows"
            )
        if not 0 < rows.num_rows <= MOST_ROWS:
            raise InvalidInput(f"an evaluation has 1 to {MOST_ROWS:,} rows, not {rows.num_rows:,}")
        kept = kept_rows(
            rows,
            given,
            origin=origin,
            identity=(identity := new_id()),
            salt=user_salt(self.log.lake.root) if given.columns.subject else "",
            run_id=self.run_id,
        )
        allowed = not_erased(self.log.lake, kept)
        if not allowed.num_rows:
            raise EvaluationProblem("every row is about somebody who was erased, so none of them is kept")
        self.log.lake.append_next(TABLE, allowed, source=SOURCE)
        forget_newly_erased(self.log.lake, allowed)
        return identity

    def _printed(self, data: str | Path | None, columns: Columns) -> tuple[Where, dict[str, Any]]:
        if data is None:
            return Where.TABLE, {}
        text = str(data)
        if isinstance(data, str) and "@" in text and not Path(text).exists():
            recorded = dict(dataset_state(self.view(), text).data["metadata"])
            where = Where.DATASET
            recorded = {
                name: recorded[name]
                for name in (
                    "format",
                    "location",
                    "digest",
                    "columns",
                    "rows",
                    "delta_table",
                    "delta_version",
                )
                if name in recorded
            }
        else:
            options = dict(self.log.lake.storage_options)
            recorded = fingerprint(
                data, storage_options=options or None, readable=self.log.lake.readable
            ).recorded()
            where = Where.FILE
        known = [str(column["name"]) for column in recorded["columns"]]
        if absent := [name for name in columns.needed if name not in known]:
            raise InvalidInput(
                f"{text} has no column {', '.join(map(shown, absent))}; it has {', '.join(known)}"
            )
        return where, recorded


def evaluation(context: Context) -> Evaluation:
    """What a metric measures on, read once for all metrics of a run.

    Raises:
        EvaluationProblem: nothing is declared or recorded, or it is not what was declared.
        DatasetMoved, DatasetUnreadable: other data, or none, lie where they were declared.
    """
    if context.subject is None:
        raise EvaluationProblem("a tenant as a whole has no evaluation data; check a version")
    key = f"evaluation {context.subject.version_id}"
    if key not in context.memo:
        try:
            view = context.log.view(context.tenant)
            given = declared_evaluation(view, context.subject.version_id)
            if context.production is None or given.served is None:
                found = evaluation_data_of(context.lake, given, production=context.production)
            else:
                found = _served(context, given, given.served, version_state(view, given.version_id))
            context.memo[key] = found
        except (EvaluationProblem, NotFound) as problem:
            context.memo[key] = problem
    known = context.memo[key]
    if isinstance(known, Exception):
        raise EvaluationProblem(str(known)) from known
    assert isinstance(known, Evaluation)
    return known


def _served(context: Context, given: DeclaredEvaluation, served: Served, version: State) -> Evaluation:
    """What the version predicted in the requests that it answered."""
    from ml_registry_pipelines.telemetry.compiling import compile_rules

    assert context.production is not None
    compile_rules(context.log.lake, context.log)
    found = served_rows(
        context.lake,
        given.columns,
        served,
        tenant=context.tenant,
        model_id=given.model_id,
        number=int(version.data["version"]),
        window=context.production,
    )
    return replace(_evaluation(found.rows, given, found.versions, "production"), facts=found.facts)


def evaluation_of_rows(rows: pa.Table, given: DeclaredEvaluation) -> Evaluation:
    """What metrics would read if these rows were recorded.

    Raises:
        EvaluationProblem: a column is missing or does not hold what was declared.
    """
    return _evaluation(normalised(rows, given.columns), given, {}, "evaluation")


def evaluation_data_of(
    lake: Lake, given: DeclaredEvaluation, *, production: tuple[datetime, datetime] | None = None
) -> Evaluation:
    """The data of a declared evaluation, or what the version predicted in production.

    Raises:
        EvaluationProblem, DatasetMoved, DatasetUnreadable: as for `evaluation`.
    """
    versions: dict[str, int] = {}
    if production is None and given.where is not Where.TABLE:
        rows = normalised(
            read_content(
                given.fingerprint,
                given.columns.needed,
                reference="the declared evaluation data",
                storage_options=lake.storage_options,
                readable=lake.readable,
            ),
            given.columns,
        )
    else:
        rows, versions = recorded_rows(lake, given, production)
    return _evaluation(rows, given, versions, "evaluation" if production is None else "production")


def _evaluation(
    rows: pa.Table, given: DeclaredEvaluation, versions: Mapping[str, int], origin: str
) -> Evaluation:
    return Evaluation(
        rows=rows,
        task=given.columns.task,
        attributes=tuple(given.columns.groups or {}),
        favourable=given.columns.favourable,
        declared=given.digest,
        table_versions=versions,
        origin=origin,
    )


def declared_evaluation(view: View, version: str) -> DeclaredEvaluation:
    """What is declared of a version, by reference or id.

    Raises:
        NotFound: nothing is.
    """
    state = version_state(view, version)
    if (found := _found(view, state.id)) is None:
        raise NotFound(
            "evaluation of", version, view.tenant, hint="; declare one with `mlreg evaluations declare`"
        )
    return found


def declared_evaluations(view: View) -> list[DeclaredEvaluation]:
    """All that are declared in a tenant."""
    states = view.select(
        "compliance.evaluations",
        "things",
        "type = $type AND NOT deleted",
        order="from_sequence",
        parameters={"type": KIND},
    )
    return [_declared(state) for state in states]


def checked_suites(names: Sequence[str]) -> tuple[str, ...]:
    """Names of suites, each once, in their order.

    Raises:
        InvalidInput: there is none, or one cannot be the name of a file.
    """
    if isinstance(names, str) or not names:
        raise InvalidInput("name the suites that the version is checked with, such as fairness")
    for name in names:
        if not _SUITE.fullmatch(name):
            raise InvalidInput(
                f"{shown(name)} is no name of a suite: lower-case letters, digits, - and _, without .yaml"
            )
    return tuple(dict.fromkeys(names))


def _found(view: View, version_id: str) -> DeclaredEvaluation | None:
    living = [state for state in named(view, KIND, version_id) if not state.deleted]
    return _declared(living[0]) if living else None


def _declared(state: State) -> DeclaredEvaluation:
    given = state.data["metadata"]
    return DeclaredEvaluation(
        tenant=state.tenant,
        id=state.id,
        model_id=state.data["parent_id"],
        version_id=given["version_id"],
        columns=Columns.of(given["columns"]),
        where=Where(given["where"]),
        suites=tuple(given["suites"]),
        dataset_version_id=given["dataset_version_id"],
        fingerprint=given["fingerprint"],
        served=Served(**given["served"]) if given.get("served") else None,
        note=state.data.get("description", ""),
        removed=state.deleted,
        sequence=state.sequence,
        recorded_at=state.recorded_at,
        actor=state.actor,
    )
