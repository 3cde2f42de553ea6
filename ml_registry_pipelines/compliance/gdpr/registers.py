"""`Registers`: the registers of data protection of one tenant, as commands on the log.

What is declared is an event; what holds now is its projection. `entries.py` says what an entry is.
A file of several registers is read strictly::

    purposes:
      - name: fraud-detection
        legal_basis: legitimate_interests
        owner: team:fraud
        retention_days: 365
        columns: [inference_events.user_hash, payments.*]
    columns:
      - {dataset: payments, column: country, personal: false}
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any, TypeVar

from pydantic import ValidationError

from ml_registry_pipelines.compliance.gdpr.clocks import extension_limit
from ml_registry_pipelines.compliance.gdpr.entries import (
    BY_NAME,
    BY_PLURAL,
    Consent,
    DataRequest,
    Entry,
    RequestKind,
)
from ml_registry_pipelines.registry.commands import Change
from ml_registry_pipelines.registry.desk import Desk
from ml_registry_pipelines.registry.errors import IllegalTransition, InvalidInput, NotFound, shown
from ml_registry_pipelines.registry.events import new_id, now
from ml_registry_pipelines.registry.references import named
from ml_registry_pipelines.registry.states import State, from_rows
from ml_registry_pipelines.strict_yaml import strict_loader

if TYPE_CHECKING:
    from ml_registry_pipelines.registry.log import Log
    from ml_registry_pipelines.registry.view import View

E = TypeVar("E", bound=Entry)
MOST = 10_000
PREFIX = "gdpr_"
"""Begins the entity types of the registers in the log."""


class Registers(Desk):
    """Registers of one tenant, for one actor. Every command is one atomic commit."""

    # -- any register --------------------------------------------------------------------

    def put(self, *entries: Entry, idempotency_key: str | None = None) -> list[Entry]:
        """Declare entries; one of the same name in the same register is replaced. All or none.

        Raises:
            InvalidInput: there is none, or one is given twice, or is a request: those have a clock.
        """
        if not 0 < len(entries) <= MOST:
            raise InvalidInput(f"{len(entries)} entries are given; give 1 to {MOST:,}")
        keys = [(entry.REGISTER, entry.name) for entry in entries]
        if (
            twice := sorted({key for key in keys if keys.count(key) > 1})
            if len(set(keys)) < len(keys)
            else []
        ):
            raise InvalidInput(f"{twice[0][0]} {shown(twice[0][1])} is given twice; names are unique")
        if any(isinstance(entry, DataRequest) for entry in entries):
            raise InvalidInput(
                "a request is opened and closed, since its clock runs; see `mlreg gdpr request`"
            )
        if len({entry.REGISTER for entry in entries}) == 1:
            action, kind = f"declare_{entries[0].REGISTER}", PREFIX + entries[0].REGISTER
        else:
            action, kind = "declare_registers", PREFIX + "registers"
        asked = {"entries": [{"register": e.REGISTER, **_dumped(e)} for e in entries]}

        def decide(view: View) -> list[Change]:
            return [_change(view, entry) for entry in entries]

        self.do(action, kind, asked, decide, idempotency_key=idempotency_key)
        return list(entries)

    def remove(self, register: str, name: str, *, idempotency_key: str | None = None) -> Entry:
        """End an entry; the log keeps that it was there.

        Raises:
            NotFound: there is none of that name.
        """
        kind = kind_of(register)
        if kind is DataRequest:
            raise InvalidInput("a request is closed and not removed; see `mlreg gdpr request close`")

        def decide(view: View) -> list[Change]:
            state = _living(view, kind, name)
            return [Change(PREFIX + register, state.id, {**state.data, "deleted": True})]

        entry = self.get(kind, name)
        self.do(
            f"remove_{register}", PREFIX + register, {"of": name}, decide, idempotency_key=idempotency_key
        )
        return entry

    def list(self, kind: type[E], *, as_of: datetime | None = None) -> list[E]:
        """The entries of a register by name."""
        return entries_of(self.view(as_of), kind)

    def get(self, kind: type[E], name: str, *, as_of: datetime | None = None) -> E:
        """One entry by name.

        Raises:
            NotFound: there is none.
        """
        return entry_of(kind, _living(self.view(as_of), kind, name))

    # -- requests and consent ------------------------------------------------------------

    def open_request(
        self,
        subject: str,
        kind: RequestKind | str,
        *,
        name: str | None = None,
        received_at: datetime | None = None,
        note: str = "",
        idempotency_key: str | None = None,
    ) -> DataRequest:
        """Take in what a subject asked for; the month of Art. 12(3) begins at `received_at`.

        Args:
            subject: pseudonym, never a name.
            name: by default a random one.

        Raises:
            InvalidInput: the subject is no pseudonym, the time is to come, or the name is taken.
        """
        # Under an idempotency key the name follows from it, so that giving it again is the same command.
        given_name = name or (f"request-{idempotency_key}" if idempotency_key else new_id())
        entry = made(
            DataRequest,
            {
                "name": given_name,
                "subject": subject,
                "kind": kind.value if isinstance(kind, RequestKind) else kind,
                "received_at": received_at or now(),
                "note": note,
            },
            "the request",
        )
        if entry.received_at > now():
            raise InvalidInput("a request cannot have been received in the future; give the time it came")

        def decide(view: View) -> list[Change]:
            if any(not state.deleted for state in named(view, PREFIX + "request", entry.name)):
                raise InvalidInput(f"there is a request {shown(entry.name)} already; give another name")
            return [_change(view, entry)]

        asked = {"name": given_name, "subject": entry.subject, "kind": entry.kind.value, "note": note}
        if received_at is not None:
            asked["received_at"] = entry.received_at.isoformat()
        self.do("open_request", PREFIX + "request", asked, decide, idempotency_key=idempotency_key)
        return self.get(DataRequest, entry.name)

    def extend_request(
        self,
        name: str,
        *,
        reason: str,
        informed_at: datetime | None = None,
        idempotency_key: str | None = None,
    ) -> DataRequest:
        """Take two more months, told to the subject with the reason within the first one: Art. 12(3).

        Raises:
            IllegalTransition: it is closed or was extended before, or the month is over.
        """
        if not reason.strip():
            raise InvalidInput("an extension needs the reason that the subject was told")
        at = informed_at or now()

        def change(request: DataRequest) -> dict[str, Any]:
            if request.extended_at is not None:
                raise IllegalTransition(f"request {shown(name)} was extended before; there is no second time")
            if at > extension_limit(request):
                raise IllegalTransition(
                    f"the subject of request {shown(name)} has to be told within one month of "
                    f"{request.received_at:%Y-%m-%d}; it cannot be extended any more"
                )
            return {"extended_at": at, "extension_reason": reason}

        return self._amended("extend_request", name, {"reason": reason}, change, idempotency_key)

    def close_request(
        self,
        name: str,
        *,
        outcome: str,
        roots: Sequence[str] = (),
        plan: Mapping[str, str] | None = None,
        needle: Mapping[str, int] | None = None,
        bundle: Mapping[str, bool | Sequence[str]] | None = None,
        certificate: str | None = None,
        closed_at: datetime | None = None,
        idempotency_key: str | None = None,
    ) -> DataRequest:
        """Close a request, with what proves that it was answered; see `DataRequest` for what each holds.

        Raises:
            IllegalTransition: it is closed already.
            NotFound: there is no such request.
        """
        if not outcome.strip():
            raise InvalidInput("a request is closed with its outcome, such as: erased, or refused and why")
        more: dict[str, Any] = {
            "outcome": outcome,
            "roots": list(roots),
            "plan": dict(plan or {}),
            "needle": dict(needle or {}),
            "bundle": dict(bundle or {}),
            "certificate": certificate,
        }
        at = closed_at or now()

        def change(request: DataRequest) -> dict[str, Any]:
            if at < request.received_at:
                raise InvalidInput(f"request {shown(name)} cannot be closed before it was received")
            return {**more, "closed_at": at}

        return self._amended("close_request", name, more, change, idempotency_key)

    def withdraw_consent(
        self, purpose: str, subject: str, *, at: datetime | None = None, idempotency_key: str | None = None
    ) -> Consent:
        """Take back a consent: from then on nothing may be trained on the subject's rows for this purpose.

        Raises:
            NotFound: there is none.
            IllegalTransition: it was withdrawn before.
        """
        name, moment = f"{purpose}/{subject}", at or now()

        def decide(view: View) -> list[Change]:
            consent = entry_of(Consent, _living(view, Consent, name))
            if consent.withdrawn_at is not None:
                raise IllegalTransition(f"consent {shown(name)} was withdrawn before")
            return [_change(view, made(Consent, {**_dumped(consent), "withdrawn_at": moment}, "the consent"))]

        self.do("withdraw_consent", PREFIX + "consent", {"of": name}, decide, idempotency_key=idempotency_key)
        return self.get(Consent, name)

    def _amended(
        self, action: str, name: str, asked: Mapping[str, Any], change: Any, idempotency_key: str | None
    ) -> DataRequest:
        def decide(view: View) -> list[Change]:
            request = entry_of(DataRequest, _living(view, DataRequest, name))
            if request.closed_at is not None:
                raise IllegalTransition(f"request {shown(name)} was closed on {request.closed_at:%Y-%m-%d}")
            return [
                _change(view, made(DataRequest, {**_dumped(request), **change(request)}, f"request {name}"))
            ]

        self.do(action, PREFIX + "request", {"of": name, **asked}, decide, idempotency_key=idempotency_key)
        return self.get(DataRequest, name)


# -- reading ---------------------------------------------------------------------------------


def entries_of(view: View, kind: type[E]) -> list[E]:
    """The entries of a register, by name, as a view has them."""
    states = view.select(
        f"gdpr.{kind.REGISTER}",
        "things",
        "type = $type AND NOT deleted",
        order="name",
        parameters={"type": PREFIX + kind.REGISTER},
    )
    return [entry_of(kind, state) for state in states]


def all_entries(log: Log, kind: type[E]) -> list[tuple[str, E]]:
    """The entries of a register of all tenants, each with its tenant."""
    rows = log.view("default").of_all_tenants(
        f"gdpr.all_{kind.REGISTER}",
        "things",
        "SELECT * FROM current WHERE type = $type AND NOT deleted ORDER BY tenant, name",
        {"type": PREFIX + kind.REGISTER},
    )
    return [(state.tenant, entry_of(kind, state)) for state in from_rows("things", rows)]


def entry_of(kind: type[E], state: State) -> E:
    """The state of an entry as a value."""
    return kind.model_validate(state.data["metadata"])


def kind_of(register: str) -> type[Entry]:
    """The form of a register by its name.

    Raises:
        InvalidInput: there is no such register.
    """
    kind = BY_NAME.get(register) or BY_PLURAL.get(register)
    if kind is None:
        raise InvalidInput(f"there is no register {shown(register)}; there are {', '.join(BY_NAME)}")
    return kind


def made(kind: type[E], given: Mapping[str, Any], where: str) -> E:
    """An entry from what was written.

    Raises:
        InvalidInput: with the field and what is wrong with it.
    """
    try:
        return kind.model_validate(dict(given))
    except ValidationError as wrong:
        first = wrong.errors(include_url=False, include_input=False)[0]
        place = ".".join(str(part) for part in first["loc"])
        said = str(first["msg"]).removeprefix("Value error, ")
        if first["type"] == "extra_forbidden":
            said = f"there is no such field; there are {', '.join(kind.model_fields)}"
        raise InvalidInput(f"{where}: {place + ': ' if place else ''}{said}") from None


def read_file(text: str, *, file: str) -> list[Entry]:
    """The entries of a YAML file; `file` is what errors call it.

    Raises:
        InvalidInput: with the file, the entry, the field and what is wrong.
    """
    import yaml

    try:
        top = yaml.load(text, Loader=strict_loader(texts=False))  # noqa: S506 - builds plain values alone
    except yaml.YAMLError as wrong:
        raise InvalidInput(f"{file} is no YAML: {' '.join(str(wrong).split())}") from None
    if not isinstance(top, dict) or not top:
        raise InvalidInput(f"{file} has to be a mapping of registers: {', '.join(BY_PLURAL)}")
    entries: list[Entry] = []
    for plural, listed in top.items():
        kind = BY_PLURAL.get(str(plural))
        if kind is None:
            raise InvalidInput(f"{file}: unknown register {plural!r}; there are {', '.join(BY_PLURAL)}")
        if not isinstance(listed, list) or not all(isinstance(each, dict) for each in listed):
            raise InvalidInput(f"{file}, {plural}: has to be a list of mappings")
        entries += [
            made(kind, each, f"{file}, {plural}, entry {number}") for number, each in enumerate(listed, 1)
        ]
    return entries


def _dumped(entry: Entry) -> dict[str, Any]:
    return entry.model_dump(mode="json")


def _change(view: View, entry: Entry) -> Change:
    kind = PREFIX + entry.REGISTER
    old = next((state for state in named(view, kind, entry.name) if not state.deleted), None)
    state = {
        "name": entry.name,
        "description": entry.note,
        "status": "active",
        "deleted": False,
        "metadata": _dumped(entry),
    }
    return Change(kind, new_id() if old is None else old.id, state)


def _living(view: View, kind: type[Entry], name: str) -> State:
    for state in named(view, PREFIX + kind.REGISTER, name):
        if not state.deleted:
            return state
    raise NotFound(
        kind.REGISTER, name, view.tenant, hint=f"; `mlreg gdpr list {kind.REGISTER}` shows those there are"
    )
