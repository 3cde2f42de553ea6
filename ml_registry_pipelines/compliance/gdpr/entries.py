"""What the registers of data protection hold: one typed form per register.

No entry holds a personal value: subjects, owners and signers are pseudonyms, and free text that
looks like it names somebody is refused. How entries are kept is in `registers.py`. Articles are of
Regulation (EU) 2016/679 unless another text is named.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import UTC, datetime
from enum import Enum
from typing import Annotated, Any, ClassVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from ml_registry_pipelines.lake.tables import TABLES
from ml_registry_pipelines.registry.errors import InvalidInput
from ml_registry_pipelines.registry.names import checked_pseudonym

_ADDRESS = re.compile(r"[^\s@]+@[^\s@]+\.\w{2,}")


class LegalBasis(Enum):
    """Art. 6(1)."""

    CONSENT = "consent"
    CONTRACT = "contract"
    LEGAL_OBLIGATION = "legal_obligation"
    VITAL_INTERESTS = "vital_interests"
    PUBLIC_TASK = "public_task"
    LEGITIMATE_INTERESTS = "legitimate_interests"


class SpecialGround(Enum):
    """Art. 9(2)(a)-(j)."""

    EXPLICIT_CONSENT = "9(2)(a)"
    EMPLOYMENT_LAW = "9(2)(b)"
    VITAL_INTERESTS = "9(2)(c)"
    MEMBERS_OF_BODY = "9(2)(d)"
    MADE_PUBLIC = "9(2)(e)"
    LEGAL_CLAIMS = "9(2)(f)"
    PUBLIC_INTEREST = "9(2)(g)"
    HEALTH_CARE = "9(2)(h)"
    PUBLIC_HEALTH = "9(2)(i)"
    RESEARCH = "9(2)(j)"


class Category(Enum):
    """What a personal column tells; all but the first are special categories, Art. 9(1)."""

    ORDINARY = "ordinary"
    RACE = "race"
    POLITICS = "politics"
    RELIGION = "religion"
    UNION = "union"
    GENETIC = "genetic"
    BIOMETRIC = "biometric"
    HEALTH = "health"
    ORIENTATION = "orientation"


class Criterion(Enum):
    """The nine criteria of WP 248 rev.01, endorsed by the EDPB: two of them call for an assessment."""

    EVALUATION_OR_SCORING = "evaluation_or_scoring"
    AUTOMATED_DECISION = "automated_decision"
    SYSTEMATIC_MONITORING = "systematic_monitoring"
    SENSITIVE_DATA = "sensitive_data"
    LARGE_SCALE = "large_scale"
    MATCHED_DATASETS = "matched_datasets"
    VULNERABLE_SUBJECTS = "vulnerable_subjects"
    INNOVATIVE_USE = "innovative_use"
    PREVENTS_RIGHT = "prevents_right"


class TransferGround(Enum):
    """Art. 44-49."""

    NONE_NEEDED = "none_needed"
    ADEQUACY = "adequacy"
    STANDARD_CLAUSES = "standard_clauses"
    BINDING_RULES = "binding_rules"
    DEROGATION = "derogation"


class AutomatedGround(Enum):
    """Art. 22(2)."""

    CONTRACT = "22(2)(a)"
    LAW = "22(2)(b)"
    EXPLICIT_CONSENT = "22(2)(c)"


class RequestKind(Enum):
    """Rights of Art. 15-21."""

    ACCESS = "access"
    RECTIFICATION = "rectification"
    ERASURE = "erasure"
    RESTRICTION = "restriction"
    PORTABILITY = "portability"
    OBJECTION = "objection"


def _impersonal(text: str) -> str:
    if _ADDRESS.search(text):
        raise ValueError("it holds an e-mail address, and the log cannot forget; name a role or a page")
    return text


def _pseudonym(text: str) -> str:
    try:
        return checked_pseudonym(text, "a person")
    except InvalidInput as wrong:
        raise ValueError(str(wrong)) from None


def _instant(moment: datetime) -> datetime:
    """Times without a zone are UTC."""
    return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)


Text = Annotated[str, Field(max_length=2_000), AfterValidator(_impersonal)]
Named = Annotated[str, Field(min_length=1, max_length=200), AfterValidator(_impersonal)]
Pseudonym = Annotated[str, AfterValidator(_pseudonym)]
Instant = Annotated[datetime, AfterValidator(_instant)]
Days = Annotated[int, Field(gt=0, le=36_525)]


class Entry(BaseModel):
    """What every entry has. What is not declared is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    REGISTER: ClassVar[str]
    PLURAL: ClassVar[str]
    ARTICLE: ClassVar[str]

    name: Named
    note: Text = ""

    @model_validator(mode="before")
    @classmethod
    def _named(cls, given: Any) -> Any:
        """Where a name follows from the rest, it need not be given."""
        if isinstance(given, Mapping) and "name" not in given:
            name = cls.named_by({str(key): value for key, value in given.items()})
            if name is not None:
                return {"name": name, **given}
        return given

    @classmethod
    def named_by(cls, given: Mapping[str, Any]) -> str | None:  # noqa: ARG003
        return None


class Purpose(Entry):
    """What personal columns are processed for. `columns`: TABLE.COLUMN or DATASET.COLUMN; `*` ends a prefix."""

    REGISTER, PLURAL, ARTICLE = "purpose", "purposes", "5(1)(b), 6, 30"

    legal_basis: LegalBasis
    owner: Pseudonym
    columns: tuple[Named, ...] = Field(min_length=1)
    retention_days: Days | None = Field(default=None, description="None: that of each table.")
    special_ground: SpecialGround | None = None
    training: bool = Field(default=False, description="Whether models may be trained on the columns.")

    @model_validator(mode="after")
    def _names_columns(self) -> Purpose:
        if wrong := [name for name in self.columns if "." not in name]:
            raise ValueError(f"{wrong[0]!r} is no column; write TABLE.COLUMN, DATASET.COLUMN or DATASET.*")
        return self


class PersonalColumn(Entry):
    """What one column of a dataset holds; also that it holds nothing personal, so that scans look."""

    REGISTER, PLURAL, ARTICLE = "column", "columns", "4(1), 30(1)(c)"

    dataset: Named
    column: Named
    personal: bool
    category: Category = Category.ORDINARY
    subject: bool = Field(
        default=False, description="Whether it holds the pseudonym of whom the row is about."
    )

    @classmethod
    def named_by(cls, given: Mapping[str, Any]) -> str | None:
        return f"{given['dataset']}.{given['column']}" if {"dataset", "column"} <= given.keys() else None


class Consent(Entry):
    """One subject's consent to one purpose, as long as it is not withdrawn."""

    REGISTER, PLURAL, ARTICLE = "consent", "consents", "6(1)(a), 7"

    subject: Pseudonym
    purpose: Named
    given_at: Instant
    withdrawn_at: Instant | None = None
    notice: Named | None = Field(default=None, description="The notice that it was given on.")

    @classmethod
    def named_by(cls, given: Mapping[str, Any]) -> str | None:
        return f"{given['purpose']}/{given['subject']}" if {"purpose", "subject"} <= given.keys() else None

    @model_validator(mode="after")
    def _in_order(self) -> Consent:
        if self.withdrawn_at is not None and self.withdrawn_at < self.given_at:
            raise ValueError("it is withdrawn before it is given")
        return self


class Assessment(Entry):
    """The data protection impact assessment of a model: `name` is the model's."""

    REGISTER, PLURAL, ARTICLE = "dpia", "dpias", "35"

    criteria: tuple[Criterion, ...]
    high_risk_system: bool = Field(description="High-risk under Regulation (EU) 2024/1689.")
    completed: bool
    signed_by: Pseudonym | None = None
    signed_at: Instant | None = None

    @property
    def needed(self) -> bool:
        return self.high_risk_system or len(set(self.criteria)) >= 2


class Processor(Entry):
    """Who processes personal data for us, where, and by which contract."""

    REGISTER, PLURAL, ARTICLE = "processor", "processors", "28, 44-46"

    region: Named = Field(description="Region tag, such as eu-central-1 or US.")
    contract: Text = Field(default="", description="Id of the contract of Art. 28(3).")
    transfer: TransferGround = TransferGround.NONE_NEEDED
    purposes: tuple[Named, ...] = ()


class Breach(Entry):
    """A breach of personal data, from when we were aware of it on."""

    REGISTER, PLURAL, ARTICLE = "breach", "breaches", "33, 34"

    aware_at: Instant
    risk: bool = Field(
        default=True, description="False: unlikely to result in a risk, with the reason in note."
    )
    notified_at: Instant | None = None
    delay_reason: Text = ""
    subjects_informed_at: Instant | None = None

    @model_validator(mode="after")
    def _told(self) -> Breach:
        if not self.risk and not self.note:
            raise ValueError("why it is unlikely to result in a risk stands in note, Art. 33(5)")
        if self.notified_at is not None and self.notified_at < self.aware_at:
            raise ValueError("it was notified before we were aware of it")
        return self


class Notice(Entry):
    """One version of a privacy notice, and what it tells."""

    REGISTER, PLURAL, ARTICLE = "notice", "notices", "13-14"

    version: Named
    published_at: Instant
    covers_ai: bool = Field(description="Whether it tells of the use of AI.")
    covers_logic: bool = Field(description="Whether it tells the logic involved and what follows, 13(2)(f).")
    models: tuple[Named, ...] = Field(default=(), description="Models that it covers; none: all.")


class AutomatedDecision(Entry):
    """One kind of decision that a model has a part in."""

    REGISTER, PLURAL, ARTICLE = "decision", "decisions", "22"

    model: Named
    solely_automated: bool
    legal_effect: bool = Field(
        description="Legal or similarly significant; a score that others draw strongly on, C-634/21."
    )
    ground: AutomatedGround | None = None
    human_contact: Text = Field(default="", description="Role or page that a person turns to.")
    contest: Text = Field(default="", description="How the decision is contested.")


class KeyStore(Entry):
    """Where the keys of pseudonyms, or of encrypted fields, are kept."""

    REGISTER, PLURAL, ARTICLE = "key_store", "key_stores", "4(5), 25, 32"

    place: Named = Field(description="Where the keys are; never below the home.")
    rotated_at: Instant
    rotation_days: Days = 365
    backup_set: Named
    data_backup_set: Named


class BiasRecord(Entry):
    """Why a special category is processed to find bias: Art. 4a of Regulation (EU) 2024/1689 as amended."""

    REGISTER, PLURAL, ARTICLE = "bias_record", "bias_records", "AI Act 4a"

    columns: tuple[Named, ...] = Field(min_length=1)
    necessity: Annotated[Text, Field(min_length=1)]
    access: tuple[Pseudonym, ...] = Field(min_length=1, description="Who may read it.")
    delete_by: Instant


class LegalHold(Entry):
    """Rows of a table that nothing may delete until a day."""

    REGISTER, PLURAL, ARTICLE = "legal_hold", "legal_holds", "17(3)(e), 18"

    table: Named
    reason: Annotated[Text, Field(min_length=1)]
    until: Instant

    @model_validator(mode="after")
    def _of_a_table(self) -> LegalHold:
        if self.table not in TABLES:
            raise ValueError(
                f"there is no table {self.table!r}, so nothing would be held; see `mlreg tables`"
            )
        return self


class Aggregate(Entry):
    """A table of counts or means that is published: of which rows, grouped by which columns."""

    REGISTER, PLURAL, ARTICLE = "aggregate", "aggregates", "5(1)(f), 25"

    dataset: Named = Field(description="A version of a dataset, such as credit@v2.")
    by: tuple[Named, ...] = Field(min_length=1)


class MembershipScores(Entry):
    """Losses or confidences of a version on its training rows and on rows that it never saw."""

    REGISTER, PLURAL, ARTICLE = "membership_scores", "membership_scores", "EDPB Opinion 28/2024"

    version: Named = Field(description="Of a model, such as credit@v3.")
    train: Named = Field(description="A version of a dataset with the scores of the training rows.")
    evaluation: Named = Field(description="The same of rows that were not trained on.")
    column: Named
    higher_is_member: bool = Field(description="True for confidences, false for losses.")
    canaries_extracted: int | None = Field(default=None, ge=0, description="Planted secrets that came out.")

    @classmethod
    def named_by(cls, given: Mapping[str, Any]) -> str | None:
        return str(given["version"]) if "version" in given else None


class DataRequest(Entry):
    """What a subject asked for under Art. 15-21, and what came of it.

    Attributes:
        roots: versions of datasets that held the subject's rows.
        plan: what was to be done with each thing that comes from them: id -> delete,
            rematerialise, retrain or justify.
        needle: of the search after an erasure: `planted`, `found`, `searched` and `hits`.
        bundle: of an export: `formats`, `schema_valid`, `complete`.
        certificate: digest of the certificate.
    """

    REGISTER, PLURAL, ARTICLE = "request", "requests", "12(3), 15-21"

    subject: Pseudonym
    kind: RequestKind
    received_at: Instant
    extended_at: Instant | None = None
    extension_reason: Text = ""
    closed_at: Instant | None = None
    outcome: Text = ""
    roots: tuple[Named, ...] = ()
    plan: dict[Named, Text] = Field(default_factory=dict)
    needle: dict[str, int] = Field(default_factory=dict)
    bundle: dict[str, bool | tuple[Named, ...]] = Field(default_factory=dict)
    certificate: Named | None = None


KINDS: tuple[type[Entry], ...] = (
    Purpose,
    PersonalColumn,
    Consent,
    Assessment,
    Processor,
    Breach,
    Notice,
    AutomatedDecision,
    KeyStore,
    BiasRecord,
    LegalHold,
    Aggregate,
    MembershipScores,
    DataRequest,
)
BY_NAME: dict[str, type[Entry]] = {kind.REGISTER: kind for kind in KINDS}
BY_PLURAL: dict[str, type[Entry]] = {kind.PLURAL: kind for kind in KINDS if kind is not DataRequest}
"""What a file may hold: requests have verbs of their own, since their clock runs."""
