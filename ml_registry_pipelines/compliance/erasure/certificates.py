"""The certificate of an erasure: a document, JSON and HTML, with counts and digests and no identifier."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from html import escape
from typing import TYPE_CHECKING, Any

from ml_registry_pipelines.compliance.erasure.proof import Proof
from ml_registry_pipelines.compliance.results import Verdict
from ml_registry_pipelines.lake.files import NoSuchFile, open_folder
from ml_registry_pipelines.registry.canonical import digest
from ml_registry_pipelines.registry.errors import NotFound

if TYPE_CHECKING:
    from ml_registry_pipelines.compliance.erasure.planning import Plan
    from ml_registry_pipelines.compliance.erasure.requests import ErasureRequest
    from ml_registry_pipelines.lake.lake import Lake

FOLDER = "certificates"
SHOWN = 50
"""Places of what is left that a certificate lists."""


@dataclass(frozen=True)
class Certificate:
    """What came of one erasure. `left`: what could not be done, a sentence each."""

    request: str
    tenant: str
    subject: str
    received_at: datetime
    due_at: datetime
    at: datetime
    by: str
    items: tuple[Mapping[str, Any], ...]
    rows: Mapping[str, int]
    keys_destroyed: int
    left: tuple[str, ...]
    open_items: int
    proof: Proof

    @classmethod
    def of(
        cls,
        request: ErasureRequest,
        planned: Plan,
        rows: Mapping[str, int],
        keys: int,
        left: tuple[str, ...],
        proof: Proof,
        *,
        by: str,
        at: datetime,
    ) -> Certificate:
        """The certificate of an erasure that was carried out."""
        return cls(
            request.id,
            request.tenant,
            request.subject,
            request.received_at,
            request.due_at,
            at,
            by,
            tuple({**item.recorded(), "confirmed_by": by} for item in planned.items),
            dict(rows),
            keys,
            # What could not be looked into before is looked into again by the proof.
            tuple(dict.fromkeys(left)),
            len(planned.open),
            proof,
        )

    @property
    def complete(self) -> bool:
        """Whether nothing is left to do: the proof passed, and no item waits for people."""
        return self.proof.verdict is Verdict.PASS and not self.left and not self.open_items

    def content(self) -> dict[str, Any]:
        """What the document and the event say."""
        return {
            "request": self.request,
            "tenant": self.tenant,
            "subject": self.subject,
            "received_at": self.received_at.astimezone(UTC).isoformat(),
            "due_at": self.due_at.astimezone(UTC).isoformat(),
            "at": self.at.astimezone(UTC).isoformat(),
            "by": self.by,
            "complete": self.complete,
            "erased": {"rows": dict(self.rows), "keys": self.keys_destroyed},
            "items": [dict(item) for item in self.items],
            "left": list(self.left),
            "proof": {
                "verdict": self.proof.verdict.value,
                "files": self.proof.files,
                "bytes": self.proof.bytes,
                "planted": dict(self.proof.planted),
                "hits": len(self.proof.hits),
                "hits_in_what_is_justified": self.proof.justified,
                "where": [
                    f"{hit.root}/{hit.path} ({hit.needle}, {hit.form})" for hit in self.proof.hits[:SHOWN]
                ],
                "problems": list(self.proof.problems[:SHOWN]),
            },
        }

    @property
    def digest(self) -> str:
        """SHA-256 of the content, which the event in the log holds as well."""
        return digest(self.content())

    def sentence(self) -> str:
        """What came of it, for a person."""
        rows = sum(self.rows.values())
        state = "complete" if self.complete else "not complete"
        return (
            f"erasure {self.request} is {state}: {rows:,} rows in {len(self.rows)} tables, "
            f"{self.keys_destroyed} keys destroyed; {self.proof.sentence()}"
        )


def keep(lake: Lake, certificate: Certificate) -> None:
    """Put the document below the storage root."""
    folder = open_folder(f"{lake.root}/{FOLDER}", lake.storage_options)
    content = {**certificate.content(), "digest": certificate.digest}
    name = f"{certificate.tenant}/{certificate.request}"
    folder.write(f"{name}.json", (json.dumps(content, indent=2, sort_keys=True) + "\n").encode())
    folder.write(f"{name}.html", as_html(content).encode())


def kept(lake: Lake, tenant: str, request: str, *, kind: str = "json") -> str:
    """The document of an erasure.

    Raises:
        NotFound: there is none yet.
    """
    folder = open_folder(f"{lake.root}/{FOLDER}", lake.storage_options)
    try:
        return folder.read(f"{tenant}/{request}.{kind}").decode()
    except NoSuchFile:
        raise NotFound("certificate of erasure", request, tenant) from None


def as_html(content: Mapping[str, Any]) -> str:
    """The same as a page that needs nothing else."""
    proof = content["proof"]
    facts = {
        "Request": content["request"],
        "Subject (keyed hash)": content["subject"],
        "Received": content["received_at"],
        "Due (Art. 12(3) GDPR)": content["due_at"],
        "Carried out": content["at"],
        "Confirmed by": content["by"],
        "Complete": "yes" if content["complete"] else "no",
        "Proof": f"{proof['verdict']}: {proof['files']:,} files, {proof['bytes']:,} bytes, {proof['hits']} hits",
        "Needles planted and found": f"{sum(proof['planted'].values())} of {len(proof['planted'])}",
        "Keys destroyed": content["erased"]["keys"],
        "SHA-256": content["digest"],
    }
    head = "".join(f"<dt>{escape(name)}</dt><dd>{escape(str(value))}</dd>" for name, value in facts.items())
    rows = "".join(
        f"<tr><td>{escape(i['kind'])}</td><td>{escape(i['where'])}</td><td>{escape(i['action'])}</td>"
        f"<td>{i['amount']:,}</td><td>{escape(i['ground'] or i['reason'])}</td>"
        f"<td>{escape(i['confirmed_by'])}</td></tr>"
        for i in content["items"]
    )
    left = [*content["left"], *proof["where"], *proof["problems"]]
    rest = "<h2>Left</h2><ul>" + "".join(f"<li>{escape(one)}</li>" for one in left) + "</ul>" if left else ""
    return (
        '<!doctype html><html lang="en"><meta charset="utf-8"><title>Certificate of erasure</title>'
        "<style>body{font:16px/1.5 system-ui;max-width:60rem;margin:2rem auto;padding:0 1rem}dt{font-weight:600}"
        "dd{margin:0 0 .5rem;overflow-wrap:anywhere}table{border-collapse:collapse;width:100%}"
        "td,th{border:1px solid #bbb;padding:.3rem .5rem;text-align:left;overflow-wrap:anywhere}</style>"
        f"<h1>Certificate of erasure</h1><dl>{head}</dl><h2>What held the person</h2>"
        "<table><thead><tr><th>Kind</th><th>Where</th><th>Action</th><th>Amount</th><th>Reason or ground</th>"
        f"<th>Confirmed by</th></tr></thead><tbody>{rows}</tbody></table>{rest}</html>\n"
    )
