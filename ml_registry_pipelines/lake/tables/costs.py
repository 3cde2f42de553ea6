"""Tables of the costs room: dated prices, priced attempts and their rollup."""

from dataclasses import replace

from ml_registry_pipelines.lake.declarations import MONEY, Column, Precedence, Table
from ml_registry_pipelines.lake.tables.attribution import ATTRIBUTED, ATTRIBUTED_COLUMNS, ATTRIBUTION_VERSION
from ml_registry_pipelines.lake.tables.telemetry import COUNT_COLUMNS

UNIT_PRICE = "decimal(38,24)"
"""A price of one unit: list prices go down to 24 decimals of a token (a twelfth of a dollar per million)."""

COST_STATUSES: tuple[str, ...] = (
    "priced",
    "unpriced",
    "incomplete",
    "inconsistent",
    "no_usage",
    "not_billed",
)
"""`unpriced`: no price matches. `incomplete`: a price matches, but has no component for something
that the request used. `inconsistent`: buckets and total disagree, or a count is absurd. `no_usage`:
the log holds no count of anything that is billed. All four have NULL cost and count against coverage.
`not_billed` costs 0: a gateway cache hit, an unbilled error, an aggregate span or a tool call."""

PRICE_STATES: tuple[str, ...] = ("in_force", "withdrawn")
"""What the newest row of a price says about it; only prices in force are applied."""

COST_COMPONENTS: tuple[str, ...] = (
    "input_cost",
    "cache_read_cost",
    "cache_write_cost",
    "output_cost",
    "other_cost",
)
AMOUNTS: tuple[str, ...] = (*COST_COMPONENTS, "cost")
"""The effective cost, by component and as a whole: what every figure uses."""
TOKEN_TYPES: tuple[str, ...] = ("input", "cache_read", "cache_write", "output")
"""Types of tokens with a cost of their own; each is the sum of its buckets."""
TYPED_TOKENS: tuple[str, ...] = tuple(f"{kind}_tokens" for kind in TOKEN_TYPES)
"""The tokens of an attempt by type: what the component of that name is for."""
LIST_AMOUNTS: tuple[str, ...] = tuple(f"list_{name}" for name in AMOUNTS)
CONTRACTED_AMOUNTS: tuple[str, ...] = tuple(f"contracted_{name}" for name in AMOUNTS)

PRICE_KINDS: tuple[str, ...] = ("list", "contract", "assumed")
"""What sort of price an effective cost comes from: a public list, a contract, or an illustrative price,
which nobody has agreed to."""

ENTRIES: tuple[str, ...] = ("reversed", "restated")
"""The two halves of a correction: what was booked, with the opposite sign, and what holds instead."""

_AMOUNT_MEANINGS = {
    "input_cost": "uncached input of every modality",
    "cache_read_cost": "input read from the prompt cache",
    "cache_write_cost": "input written to the prompt cache",
    "output_cost": "output, reasoning included",
    "other_cost": "requests, searches, pages, seconds",
}


def _listed(of: str) -> tuple[Column, ...]:
    """Columns of what the public list asks for the same usage."""
    return (
        *(
            Column(f"list_{name}", MONEY, f"{meaning}, at the public list price", "currency")
            for name, meaning in _AMOUNT_MEANINGS.items()
        ),
        Column("list_cost", MONEY, f"FOCUS ListCost: {of}", "currency"),
    )


BOOKED_DAY = Column(
    "booked_day",
    "date",
    "UTC day on which the amount was booked, where the month of its own day was closed by then; "
    "NULL: with its own day",
)

PRICE_CATALOG = Table(
    name="price_catalog",
    row="one dated price of one billable component of one model",
    columns=(
        Column(
            "price_id",
            "string",
            "stable id: digest over catalogue, provider, model, conditions, validity and all components",
            required=True,
        ),
        Column(
            "catalog",
            "string",
            "where the price comes from: genai-prices, or the name of a contract",
            required=True,
        ),
        Column("catalog_version", "string", "version of that source", required=True),
        Column("provider", "string", "provider id", required=True),
        Column(
            "model",
            "string",
            "model id of the catalogue; in a contract a name, or a pattern with *",
            required=True,
        ),
        Column("service_tier", "string", "applies to requests of this tier only (batch ...); NULL: to any"),
        Column("region", "string", "applies to requests of this region only; NULL: to any"),
        Column("component", "string", "token bucket or counter that the price is for", required=True),
        Column(
            "context_over",
            "int64",
            "applies to requests with more input tokens than this; 0: to all that no higher step takes",
            "tokens",
            required=True,
        ),
        Column("unit_price", UNIT_PRICE, "price of one unit", "currency per unit", required=True),
        Column("unit", "string", "token, second, page, request, search or call", required=True),
        Column("minimum", "int64", "least quantity that is billed where any is; NULL: none", "units"),
        Column("currency", "string", "ISO 4217 code", required=True),
        Column("valid_from", "timestamp", "first instant of validity; NULL: since ever", "UTC"),
        Column("valid_to", "timestamp", "first instant after validity; NULL: still valid", "UTC"),
        Column("day_from", "string", "start of the daily window in UTC, HH:MM; NULL: all day"),
        Column("day_to", "string", "end of the daily window, exclusive; before day_from: on the next day"),
        Column("precedence", "int32", "where several match, the highest wins", required=True),
        Column(
            "assumed", "bool", "whether the price is illustrative and not from a price list", required=True
        ),
        Column("note", "string", "source of the price, in words"),
        Column(
            "state",
            "string",
            "in_force or withdrawn; the newest generation of a price_id decides",
            required=True,
        ),
        Column(
            "generation", "int64", "number of the catalogue change that wrote the row, from 1", required=True
        ),
        Column("recorded_at", "timestamp", "when the row was written", "UTC", required=True),
    ),
    key=("price_id", "component", "context_over", "generation"),
    statistics=("provider", "model", "recorded_at"),
    sort_by=("provider", "model", "valid_from"),
    tenant_column=None,
    shared=True,
    precedence=Precedence.RETENTION,
)

_STATED = (
    Column(
        "price_kind",
        "string",
        "list, contract or assumed; NULL where nothing is priced. A component's contracted cost is its own "
        "cost where this is contract, else its list cost",
    ),
    Column(
        "list_price_id",
        "string",
        "list price of the same model, conditions and moment; NULL where there is none in this currency that "
        "names all that was used",
    ),
    *_listed("list price times usage; NULL where the attempt is not priced, or list_price_id is NULL"),
    Column(
        "contracted_cost",
        MONEY,
        "FOCUS ContractedCost: at the contract's price where one holds, else list_cost; "
        "an illustrative price is no contract",
        "currency",
    ),
)

MODEL_COSTS = Table(
    name="model_costs",
    row="one attempt with its price: exactly one row per row of inference_events",
    columns=(
        Column("tenant", "string", "organisation that owns the request", required=True),
        Column("day", "date", "UTC day on which the request started", required=True),
        Column("event_ts", "timestamp", "start of the request", "UTC", required=True),
        Column("batch", "int64", "batch of inference_events", required=True),
        Column("event_key", "int64", "identity of the attempt, as in inference_events", required=True),
        Column("application", "string", "application that made the request"),
        Column("provider", "string", "who answered"),
        Column("model", "string", "model that answered"),
        Column("status", "string", "status of the request", required=True),
        Column(
            "cost_status",
            "string",
            "priced, unpriced, incomplete, inconsistent, no_usage or not_billed",
            required=True,
        ),
        Column(
            "price_id", "string", "price that matched; the cost is NULL all the same where it is incomplete"
        ),
        Column(
            "assumed",
            "bool",
            "whether that price is illustrative, or a standard one for a tier that the list lacks",
            required=True,
        ),
        Column("tokens", "int64", "tokens of the request, all buckets together", "tokens", required=True),
        Column("currency", "string", "ISO 4217 code of the amounts; NULL where there is no price"),
        Column("input_cost", MONEY, "uncached input of every modality", "currency"),
        Column("cache_read_cost", MONEY, "input read from the prompt cache", "currency"),
        Column("cache_write_cost", MONEY, "input written to the prompt cache", "currency"),
        Column("output_cost", MONEY, "output, reasoning included", "currency"),
        Column("other_cost", MONEY, "requests, searches, pages, seconds", "currency"),
        Column(
            "cost", MONEY, "sum of the components; NULL where the attempt could not be priced", "currency"
        ),
        Column("logged_cost", MONEY, "cost that the log itself states", "logged_currency"),
        Column("logged_currency", "string", "ISO 4217 code of logged_cost"),
        *_STATED,
        BOOKED_DAY,
        *(
            Column(
                f"{kind}_tokens",
                "int64",
                f"tokens that {kind}_cost is for; NULL: not kept yet then",
                "tokens",
            )
            for kind in TOKEN_TYPES
        ),
    ),
    key=("tenant", "event_key", "batch"),
    statistics=("tenant", "day", "event_ts", "batch", "event_key", "booked_day"),
    partition_by=("day",),
    sort_by=("tenant", "event_ts"),
    retention_days=3650,
    precedence=Precedence.RETENTION,
    plain=("event_key", "event_ts"),
)

COST_ROLLUP = Table(
    name="cost_rollup",
    row="one hour or day of one tenant, application, provider, model, status, version and currency",
    columns=(
        Column("grain", "string", "hour or day", required=True),
        Column("period_start", "timestamp", "start of the period", "UTC", required=True),
        Column("day", "date", "UTC day of the period", required=True),
        Column("tenant", "string", "organisation", required=True),
        Column("application", "string", "application"),
        Column("provider", "string", "who answered"),
        Column("model", "string", "model that answered"),
        Column("status", "string", "status of the requests", required=True),
        Column(
            "currency",
            "string",
            "ISO 4217 code of the amounts; attempts without any join the only currency beside them",
        ),
        Column("requests", "int64", "attempts", "requests", required=True),
        Column("billable_requests", "int64", "attempts that should have a price", "requests", required=True),
        Column("priced_requests", "int64", "attempts that have one", "requests", required=True),
        Column("assumed_requests", "int64", "attempts priced by an assumed price", "requests", required=True),
        Column(
            "priced_tokens",
            "int64",
            "tokens of the priced attempts, all buckets together",
            "tokens",
            required=True,
        ),
        *COUNT_COLUMNS,
        Column("input_cost", MONEY, "uncached input", "currency"),
        Column("cache_read_cost", MONEY, "input read from the prompt cache", "currency"),
        Column("cache_write_cost", MONEY, "input written to the prompt cache", "currency"),
        Column("output_cost", MONEY, "output", "currency"),
        Column("other_cost", MONEY, "requests, searches, pages, seconds", "currency"),
        Column(
            "cost",
            MONEY,
            "sum over the priced attempts; NULL where none is priced, 0 where none is billable",
            "currency",
        ),
        Column("logged_cost", MONEY, "sum of what the logs themselves state in that currency", "currency"),
        Column("sequence", "int64", "batch up to which the row was computed", required=True),
        Column(
            "costs_version",
            "int64",
            "versions of model_costs and cost_corrections, added up, that the row was computed from; "
            "NULL: not recorded yet then",
        ),
        *ATTRIBUTED_COLUMNS,
        ATTRIBUTION_VERSION,
        Column(
            "listed_requests",
            "int64",
            "priced attempts that have a list cost; NULL: not counted yet then",
            "requests",
        ),
        Column("listed_cost", MONEY, "effective cost of those: list_cost less this was saved", "currency"),
        *_listed("sum over the attempts that have one"),
        *(
            Column(name, MONEY, "as in model_costs, over the attempts that have one", "currency")
            for name in CONTRACTED_AMOUNTS
        ),
        Column(
            "charge_class",
            "string",
            "Correction: what was corrected after the month had closed, with counts as differences; "
            "NULL: what was booked first",
        ),
        BOOKED_DAY,
        *(
            Column(
                f"priced_{kind}_tokens",
                "int64",
                f"tokens of the priced attempts that {kind}_cost is for",
                "tokens",
            )
            for kind in TOKEN_TYPES
        ),
        Column(
            "typed_requests", "int64", "priced attempts whose tokens are kept by type; NULL: none", "requests"
        ),
    ),
    key=(
        "grain",
        "period_start",
        "tenant",
        "application",
        "provider",
        "model",
        "status",
        *ATTRIBUTED,
        "currency",
        "charge_class",
        "booked_day",
    ),
    statistics=("tenant", "day", "period_start", "sequence", "attribution_version"),
    partition_by=("day",),
    sort_by=("grain", "tenant", "period_start"),
    precedence=Precedence.RETENTION,
)

ROI_RESULTS = Table(
    name="roi_results",
    row="one answer to what models returned over some days, with the value model that it was computed with",
    columns=(
        Column("result_id", "string", "random id of the answer", required=True),
        Column("tenant", "string", "organisation", required=True),
        Column("value_model", "string", "name of the value model then", required=True),
        Column("value_model_id", "string", "its id", required=True),
        Column("value_model_sequence", "int64", "event of the log that declared it so", required=True),
        Column("since", "date", "first UTC day", required=True),
        Column("until", "date", "first UTC day after", required=True),
        Column(
            "status", "string", "stated, or refused: then it has a reason and no net value", required=True
        ),
        Column("reason", "string", "why it is refused"),
        Column("currency", "string", "ISO 4217 code of the amounts", required=True),
        Column("answers", "int64", "answers that models gave", "requests", required=True),
        Column("labels", "int64", "answers that were judged; NULL: every answer is a success", "requests"),
        Column(
            "successes", "decimal(38,6)", "successes, from the labels carried over to all answers", "requests"
        ),
        Column("value", MONEY, "successes times the value of one", "currency"),
        Column("model_cost", MONEY, "what the priced requests cost", "currency"),
        Column("unpriced_cost", MONEY, "estimate for those without a price", "currency"),
        Column("judge_cost", MONEY, "what judging cost", "currency"),
        Column("platform_cost", MONEY, "the platform's share of these days", "currency"),
        Column("net_value", MONEY, "value less all costs", "currency"),
        Column("net_lower", MONEY, "lower bound of the net value", "currency"),
        Column("net_upper", MONEY, "upper bound of the net value", "currency"),
        Column("return", "float64", "net value by all costs; NULL where there are none"),
        Column("return_lower", "float64", "lower bound of the return"),
        Column("return_upper", "float64", "upper bound of the return"),
        Column("counterfactual_cost", MONEY, "what the answers would cost otherwise", "currency"),
        Column("saving", MONEY, "that, less all costs", "currency"),
        Column("saving_lower", MONEY, "lower bound of the saving", "currency"),
        Column("saving_upper", MONEY, "upper bound of the saving", "currency"),
        Column("confidence", "float64", "of the intervals", required=True),
        Column("price_coverage", "float64", "priced per billable requests; NULL where nothing was billable"),
        Column("label_coverage", "float64", "judged answers per answer"),
        Column("assumptions", "string", "value model, methods and remarks, as a JSON object", required=True),
        Column(
            "provenance",
            "string",
            "versions of the tables and batch that it rests on, as JSON",
            required=True,
        ),
        Column("recorded_at", "timestamp", "when it was computed", "UTC", required=True),
    ),
    key=("result_id",),
    statistics=("tenant", "since", "recorded_at"),
    sort_by=("tenant", "recorded_at"),
    retention_days=3650,
    precedence=Precedence.RETENTION,
)

TAG_COSTS = Table(
    name="tag_costs",
    row="one hour of one value of a tag that a budget names: what requests with it cost",
    columns=(
        Column("period_start", "timestamp", "start of the hour", "UTC", required=True),
        Column("day", "date", "UTC day of the hour", required=True),
        Column("tenant", "string", "organisation", required=True),
        Column("tag", "string", "name of the tag", required=True),
        Column("value", "string", "its value; NULL: requests without the tag"),
        Column("application", "string", "application"),
        Column("provider", "string", "who answered"),
        Column("model", "string", "model that answered"),
        Column("model_id", "string", "model of the registry; NULL where that is not known"),
        Column("currency", "string", "ISO 4217 code of the cost; NULL where there is no price"),
        Column("requests", "int64", "attempts", "requests", required=True),
        Column("billable_requests", "int64", "attempts that should have a price", "requests", required=True),
        Column("priced_requests", "int64", "attempts that have one", "requests", required=True),
        Column("assumed_requests", "int64", "attempts priced by an assumed price", "requests", required=True),
        Column("cost", MONEY, "sum over the priced attempts; NULL where none is priced", "currency"),
        Column("sequence", "int64", "batch of the day's cost_rollup that the row goes with", required=True),
        Column("costs_version", "int64", "version of model_costs that this rollup was computed from"),
        ATTRIBUTION_VERSION,
        Column("tags_digest", "int64", "digest of the tenants and tags that were summed up", required=True),
    ),
    key=(
        "period_start",
        "tenant",
        "tag",
        "value",
        "application",
        "provider",
        "model",
        "model_id",
        "currency",
    ),
    statistics=("tenant", "day", "period_start", "sequence"),
    partition_by=("day",),
    sort_by=("tenant", "tag", "period_start"),
    precedence=Precedence.RETENTION,
)

COST_CORRECTIONS = Table(
    name="cost_corrections",
    row="one half of a correction of one attempt's cost after its month had closed",
    columns=(
        Column("correction", "int64", "number of the commit that wrote it, from 1", required=True),
        Column("recorded_at", "timestamp", "when it was written", "UTC", required=True),
        Column(
            "entry",
            "string",
            "reversed: what was booked, amounts with the opposite sign; restated: what holds instead",
            required=True,
        ),
        *(
            replace(column, required=True) if column is BOOKED_DAY else column
            for column in MODEL_COSTS.columns
        ),
    ),
    key=("tenant", "event_key", "batch", "correction", "entry"),
    statistics=("tenant", "day", "booked_day", "correction"),
    partition_by=("day",),
    sort_by=("tenant", "event_ts", "event_key", "entry"),
    retention_days=3650,
    precedence=Precedence.RETENTION,
    plain=("event_key", "event_ts"),
)

RATE = "decimal(18,12)"
"""A rate of exchange: times an amount of twelve decimals it stays exact, up to 99 trillion."""

CURRENCY_RATES = Table(
    name="currency_rates",
    row="one state of one dated rate between two currencies",
    columns=(
        Column("day", "date", "first UTC day that the rate is of", required=True),
        Column("base", "string", "ISO 4217 code of the currency of which one unit is priced", required=True),
        Column("quote", "string", "ISO 4217 code of the currency in which it is priced", required=True),
        Column("rate", RATE, "units of quote for one unit of base; NULL: withdrawn", "quote per base"),
        Column("source", "string", "who says so", required=True),
        Column(
            "generation",
            "int64",
            "number of the change that wrote the row, from 1; of one day and pair the newest holds",
            required=True,
        ),
        Column("recorded_at", "timestamp", "when the row was written", "UTC", required=True),
    ),
    key=("day", "base", "quote", "generation"),
    statistics=("day", "base", "quote", "generation"),
    sort_by=("day", "base", "quote"),
    tenant_column=None,
    shared=True,
    precedence=Precedence.RETENTION,
)

TABLES = (
    PRICE_CATALOG,
    MODEL_COSTS,
    COST_ROLLUP,
    TAG_COSTS,
    COST_CORRECTIONS,
    CURRENCY_RATES,
    ROI_RESULTS,
)
