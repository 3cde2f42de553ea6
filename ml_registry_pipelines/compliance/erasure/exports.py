"""What the platform holds about one person, as a bundle for them: JSON, CSV and JSON Schema in a zip.

Art. 20 covers what they provided and what was observed of them (WP242 rev.01, p. 9-10); what was inferred
or decided about them belongs to Art. 15 alone. The bundle says which is which, and lists what else the
plan of an erasure finds and why it is not in it.
"""

from __future__ import annotations

import csv
import io
import json
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime
from decimal import Decimal
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ml_registry_pipelines.compliance.erasure.contacts import PersonalFields
from ml_registry_pipelines.compliance.erasure.landing import Mention, Theirs, records_of_person
from ml_registry_pipelines.compliance.erasure.requests import ErasureRequests
from ml_registry_pipelines.compliance.erasure.tables import OF_THE_LOG, Linked, rows_held
from ml_registry_pipelines.compliance.gdpr.entries import DataRequest, RequestKind
from ml_registry_pipelines.compliance.gdpr.requests import EXPORT
from ml_registry_pipelines.lake.declarations import Table
from ml_registry_pipelines.lake.tables import TABLES
from ml_registry_pipelines.registry.errors import InvalidInput, shown
from ml_registry_pipelines.registry.shredding import SubjectKeys
from ml_registry_pipelines.telemetry.ingestion import Ingestion

if TYPE_CHECKING:
    from ml_registry_pipelines.compliance.erasure.erasing import Eraser
    from ml_registry_pipelines.compliance.erasure.subjects import Subject
    from ml_registry_pipelines.compliance.gdpr.registers import Registers

RAW = "raw_records"


class Article(Enum):
    """Which right a bundle answers to."""

    ACCESS = "15"
    PORTABILITY = "20"


ORIGINS: Mapping[str, str] = {
    RAW: "provided",
    "personal_fields": "provided",
    "inference_events": "observed",
    "quarantined_rows": "provided",
    "outcomes": "observed",
    "assignments": "inferred",
    "evaluation_data": "inferred",
    "model_metrics": "inferred",
}
"""Whether data are provided by the person, observed of them, or inferred; what is not named is inferred."""
_TYPES = {"int16": "integer", "int32": "integer", "int64": "integer", "float64": "number", "bool": "boolean"}
_RAW_SCHEMA = {
    "type": "object",
    "properties": {
        "source": {"type": "string", "description": "configured source of the log file"},
        "file": {"type": "string", "description": "path of the file below it"},
        "line": {"type": "integer", "description": "line, or number of the record"},
        "record": {"description": "the record as it was sent"},
    },
    "required": ["source", "file", "line", "record"],
    "additionalProperties": False,
}


@dataclass(frozen=True)
class Bundle:
    """What was exported: counts by part, and what the plan has beyond them."""

    article: Article
    rows: Mapping[str, int]
    elsewhere: tuple[Mapping[str, Any], ...]
    complete: bool
    valid: bool
    """Whether each row fits its schema."""
    problems: tuple[str, ...]
    """What could not be looked into, so that it may lack something."""
    data: bytes

    def proof(self) -> dict[str, bool | Sequence[str]]:
        """What the register of requests keeps of it."""
        return {"formats": ("json", "csv", "schema"), "schema_valid": self.valid, "complete": self.complete}


def export(eraser: Eraser, subject: Subject, article: Article = Article.ACCESS) -> Bundle:
    """The bundle of a person. That it was made is an event of the log, without what is in it."""
    eraser.requests.ask("export_subject_data", "subject", {"subject": subject.pseudonym})
    planned = eraser.plan(subject)
    lake = eraser.log.lake
    wanted = (
        {"provided", "observed"} if article is Article.PORTABILITY else {"provided", "observed", "inferred"}
    )
    parts: dict[str, tuple[list[dict[str, Any]], dict[str, Any]]] = {}
    elsewhere: list[dict[str, Any]] = []
    complete = not planned.problems
    for item in planned.items:
        name = item.id.removeprefix("table:")
        if not item.id.startswith("table:"):
            if item.kind != "raw file":
                elsewhere.append(
                    {"what": item.kind, "where": item.where, "why": "no record about the person by itself"}
                )
            continue
        if name in OF_THE_LOG:
            elsewhere.append(
                {"what": item.kind, "where": name, "why": "holds no personal value in the clear"}
            )
        elif ORIGINS.get(name, "inferred") not in wanted:
            elsewhere.append({"what": "table", "where": name, "why": "inferred, so not part of Art. 20"})
        else:
            rows = [_plain(row) for row in rows_held(lake, name, subject, planned.linked)]
            complete = complete and len(rows) >= min(item.amount, 1)
            parts[name] = (rows, schema_of(TABLES[name]))
    raw, unread = _raw(eraser, subject, planned.raw_files, planned.linked)
    complete = complete and not unread
    elsewhere += [{"what": "raw file", "where": one, "why": "cannot be decoded"} for one in unread]
    if raw:
        parts[RAW] = (raw, _RAW_SCHEMA)
    fields = _personal_fields(eraser, subject)
    if fields:
        parts["personal_fields"] = (fields, _FIELDS_SCHEMA)
    counts = {name: len(held) for name, (held, _) in parts.items()}
    valid = all(_fits(row, schema) for rows, schema in parts.values() for row in rows)
    data = _zipped(subject, article, parts, elsewhere, complete=complete)
    # What is handed out is noted first.
    eraser.note("export", ", ".join(sorted(counts)) or "nothing", rows=sum(counts.values()))
    ExportLog(eraser).note(subject, article, counts, complete=complete and valid)
    problems = (*planned.problems, *(f"{one} cannot be decoded" for one in unread))
    return Bundle(article, counts, tuple(elsewhere), complete, valid, problems, data)


def _personal_fields(eraser: Eraser, subject: Subject) -> list[dict[str, Any]]:
    """What the log holds of the person under their own key, in the clear."""
    mine = SubjectKeys(eraser.log.lake).ids_of(subject.tenant, subject.identifiers)
    if not mine:
        return []
    fields = PersonalFields(eraser.log, actor=eraser.actor, tenant=subject.tenant).list(keys=mine)
    return [{"about": one.about, "field": one.field, "value": one.value} for one in fields]


_FIELDS_SCHEMA = {
    "type": "object",
    "properties": {
        "about": {"type": "string", "description": "what it belongs to"},
        "field": {"type": "string", "description": "name of the field"},
        "value": {"type": "string", "description": "its value"},
    },
    "required": ["about", "field", "value"],
    "additionalProperties": False,
}


class ExportLog:
    """Says in the log that a bundle was made, for whom by keyed hash, and how much was in it."""

    def __init__(self, eraser: Eraser) -> None:
        self._desk: ErasureRequests = eraser.requests

    def note(self, subject: Subject, article: Article, rows: Mapping[str, int], *, complete: bool) -> None:
        """Record one bundle."""
        from ml_registry_pipelines.registry.commands import Change
        from ml_registry_pipelines.registry.events import new_id

        content = {
            "subject": subject.pseudonym,
            "article": article.value,
            "rows": dict(rows),
            "complete": complete,
        }
        entity = new_id()
        state = {"name": entity, "description": "", "status": "made", "deleted": False, "metadata": content}
        self._desk.do("export_subject_data", EXPORT, content, lambda _: [Change(EXPORT, entity, state)])


ANSWERED = {Article.ACCESS: RequestKind.ACCESS, Article.PORTABILITY: RequestKind.PORTABILITY}


def answerable(registers: Registers, name: str, article: Article) -> None:
    """Make sure that a bundle can answer a request of the register.

    Raises:
        NotFound: there is none of that name.
        InvalidInput: it is closed, or asks for something else.
    """
    request = registers.get(DataRequest, name)
    if request.closed_at is not None:
        raise InvalidInput(f"request {shown(name)} was closed on {request.closed_at:%Y-%m-%d}")
    if request.kind is not ANSWERED[article]:
        raise InvalidInput(
            f"request {shown(name)} is for {request.kind.value}, and a bundle under Art. {article.value} "
            f"answers one for {ANSWERED[article].value}"
        )


def written(bundle: Bundle, to: Path, root: str) -> None:
    """Write the bundle where no search for the person looks.

    Raises:
        InvalidInput: the file is there already, lies below the storage root, or cannot be written.
    """
    place = to.expanduser().absolute()
    if not root.startswith("s3://") and place.resolve().is_relative_to(Path(root).resolve()):
        raise InvalidInput(
            f"{to} lies below the storage root; a bundle would be one more place that holds the person"
        )
    try:
        with place.open("xb") as stream:
            stream.write(bundle.data)
    except OSError as failure:
        raise InvalidInput(f"{to} cannot be written: {failure.strerror}") from failure


_PLAIN: Mapping[str, tuple[type, ...]] = {
    "string": (str,),
    "integer": (int,),
    "number": (int, float),
    "boolean": (bool,),
}


def _fits(row: Mapping[str, Any], schema: Mapping[str, Any]) -> bool:
    """Whether a row has the fields of its schema, all of them and no other, each of its type."""
    if row.keys() != schema["properties"].keys():
        return False
    for name, declared in schema["properties"].items():
        kinds = declared.get("type")
        if kinds is None:
            continue
        listed = [kinds] if isinstance(kinds, str) else kinds
        value = row[name]
        fits = any(
            value is None if kind == "null" else isinstance(value, _PLAIN.get(kind, (object,)))
            for kind in listed
        )
        if not fits or (isinstance(value, bool) and "boolean" not in listed):
            return False
    return True


def schema_of(table: Table) -> dict[str, Any]:
    """JSON Schema (2020-12) of a row."""
    properties: dict[str, Any] = {}
    for column in table.columns:
        kind = _TYPES.get(column.type, "string")
        about: dict[str, Any] = {"description": column.meaning}
        if column.type == "timestamp":
            about["format"] = "date-time"
        elif column.type == "date":
            about["format"] = "date"
        properties[column.name] = {"type": kind if column.required else [kind, "null"], **about}
    return {
        "type": "object",
        "properties": properties,
        "required": list(table.column_names),
        "additionalProperties": False,
    }


def _raw(
    eraser: Eraser, subject: Subject, files: Sequence[Mention], linked: Linked
) -> tuple[list[dict[str, Any]], list[str]]:
    ingestion = Ingestion(eraser.log.lake, eraser.sources)
    found: list[dict[str, Any]] = []
    unread: list[str] = []
    for mention in files:
        records = records_of_person(
            ingestion,
            eraser.sources.get(mention.source),
            mention.path,
            subject.tenant,
            Theirs({*subject.hashes, *linked.sessions}, linked.traces),
            subject.needles,
        )
        if records is None:
            unread.append(f"{mention.source}: {mention.path}")
            continue
        found += [
            {"source": mention.source, "file": mention.path, "line": line, "record": _parsed(text)}
            for line, text in records
        ]
    return found, unread


def _parsed(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text


def _plain(row: Mapping[str, Any]) -> dict[str, Any]:
    return {name: _value(value) for name, value in row.items()}


def _value(value: Any) -> Any:
    match value:
        case datetime():
            return value.astimezone(UTC).isoformat()
        case date():
            return value.isoformat()
        case Decimal():
            return f"{value:f}"
        case _:
            return value


def _zipped(
    subject: Subject,
    article: Article,
    parts: Mapping[str, tuple[list[dict[str, Any]], dict[str, Any]]],
    elsewhere: Sequence[Mapping[str, Any]],
    *,
    complete: bool,
) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, (rows, schema) in sorted(parts.items()):
            listed = {
                "$schema": "https://json-schema.org/draft/2020-12/schema",
                "title": name,
                "type": "array",
                "items": schema,
            }
            archive.writestr(f"{name}.schema.json", _json(listed))
            archive.writestr(f"{name}.json", _json(rows))
            archive.writestr(f"{name}.csv", _csv(rows, list(schema["properties"])))
        archive.writestr(
            "manifest.json",
            _json(
                {
                    "article": f"GDPR Art. {article.value}",
                    "tenant": subject.tenant,
                    "subject": subject.pseudonym,
                    "made_at": datetime.now(UTC).isoformat(),
                    "complete": complete,
                    "parts": {
                        name: {"rows": len(rows), "origin": ORIGINS.get(name, "inferred")}
                        for name, (rows, _) in sorted(parts.items())
                    },
                    "elsewhere": list(elsewhere),
                }
            ),
        )
    return out.getvalue()


def _json(value: Any) -> str:
    return json.dumps(value, indent=2, ensure_ascii=False) + "\n"


def _csv(rows: Sequence[Mapping[str, Any]], names: Sequence[str]) -> str:
    out = io.StringIO()
    writer = csv.writer(out)
    writer.writerow(names)
    writer.writerows(_cells(row, names) for row in rows)
    return out.getvalue()


def _cells(row: Mapping[str, Any], names: Sequence[str]) -> Iterator[str]:
    """The values as text; one that a spreadsheet would take for a formula is led by an apostrophe."""
    for name in names:
        value = row.get(name)
        text = (
            ""
            if value is None
            else value
            if isinstance(value, str)
            else json.dumps(value, ensure_ascii=False)
        )
        yield f"'{text}" if isinstance(value, str) and text[:1] in ("=", "+", "-", "@", "\t", "\r") else text
