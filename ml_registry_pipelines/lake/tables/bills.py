"""Tables of what providers bill, how it compares with our own costs, and what tenants were told to pay."""

from ml_registry_pipelines.lake.declarations import MONEY, Column, Precedence, Table

QUANTITY = "decimal(38,12)"

LINE_STATES: tuple[str, ...] = ("stated", "withdrawn")
"""What the newest row of a line says: that it is on the bill, or that a later bill no longer has it."""

LINE_KINDS: tuple[str, ...] = ("cost", "usage", "nothing")
"""`cost`: an amount of money. `usage`: a quantity without an amount, as usage reports state it. `nothing`:
the provider says that it bills nothing for the period; without it a day without lines would be a day
without a bill."""

PROVIDER_BILLS = Table(
    name="provider_bills",
    row="one statement of one billed line by one file or pull; the newest row of a line_key counts, "
    "and where it is withdrawn, none does",
    columns=(
        Column(
            "line_key",
            "int64",
            "identity of the line: 64 bits of SHA-256 over report, provider, account, period and dimensions, "
            "without amounts",
            required=True,
        ),
        Column("state", "string", "stated or withdrawn", required=True),
        Column("kind", "string", "cost, usage or nothing", required=True),
        Column(
            "report",
            "string",
            "kind of bill: focus, openai_costs, openai_usage, anthropic_costs, anthropic_usage, cloudflare_costs",
            required=True,
        ),
        Column("tenant", "string", "organisation, where the source is one tenant's; else NULL"),
        Column("provider", "string", "who answered the requests, as in the logs", required=True),
        Column("issuer", "string", "who issued the bill", required=True),
        Column("account", "string", "billing account or organisation at the issuer"),
        Column("sub_account", "string", "project, workspace, gateway or sub-account within it"),
        Column("api_key_id", "string", "the issuer's id of the API key"),
        Column("day", "date", "UTC day on which the period starts", required=True),
        Column("period_start", "timestamp", "first instant of the billed period", "UTC", required=True),
        Column("period_end", "timestamp", "first instant after it", "UTC", required=True),
        Column("product", "string", "product or service, in the issuer's words"),
        Column("model", "string", "model, in the issuer's words"),
        Column("line_item", "string", "what is billed, in the issuer's words"),
        Column("charge", "string", "usage, purchase, tax, credit or adjustment (FOCUS ChargeCategory)"),
        Column(
            "charge_class", "string", "correction, where it corrects an invoiced period (FOCUS ChargeClass)"
        ),
        Column("token_kind", "string", "kind of tokens or other unit, in the issuer's words"),
        Column("service_tier", "string", "standard, batch, priority ..."),
        Column("quantity", QUANTITY, "how much was used; NULL where the bill does not say", "unit"),
        Column("unit", "string", "tokens, requests, searches, 1M Tokens ...; NULL without a quantity"),
        Column("list_amount", MONEY, "before discounts; NULL where the bill does not say", "currency"),
        Column(
            "amount",
            MONEY,
            "what is billed, after discounts; negative for a credit, NULL where the kind is not cost",
            "currency",
        ),
        Column("currency", "string", "ISO 4217 code of the amounts; NULL where the kind is not cost"),
        Column(
            "estimated", "bool", "whether the issuer estimates the amount, as a gateway does", required=True
        ),
        Column("provider_line_id", "string", "the issuer's own id of the line, where it has one"),
        Column("grouping", "string", "dimensions that the report was grouped by; NULL where it has none"),
        Column("occurrence", "int32", "which of several equal lines of one file, from 0", required=True),
        Column("source", "string", "configured source of bills, or pull", required=True),
        Column("file", "string", "path below the source, or of the pull's kept answer", required=True),
        Column("file_digest", "string", "SHA-256 of that file", required=True),
        Column(
            "line",
            "int64",
            "line of the file, or number of the record within a JSON document, from 1; "
            "0 where the line was withdrawn by being absent",
            required=True,
        ),
        Column("batch", "int64", "number of the commit that wrote the row, from 1", required=True),
        Column("recorded_at", "timestamp", "when it was taken", "UTC", required=True),
    ),
    key=("line_key", "batch"),
    statistics=("day", "batch", "line_key", "provider", "recorded_at"),
    sort_by=("day", "provider"),
    retention_days=3650,
    precedence=Precedence.RETENTION,
)

BILL_FILES = Table(
    name="bill_files",
    row="one file of bills, or one kept answer of a pull, that was taken",
    columns=(
        Column("source", "string", "configured source of bills, or pull", required=True),
        Column("path", "string", "path below the source", required=True),
        Column("size", "int64", "size when it was taken", "bytes", required=True),
        Column("modified_at", "timestamp", "modification time when it was taken", "UTC", required=True),
        Column("etag", "string", "entity tag of the object store; NULL in a folder"),
        Column("digest", "string", "SHA-256 of the stored bytes", required=True),
        Column("complete", "bool", "always true: a file is taken as a whole", required=True),
        Column("report", "string", "kinds of bill that it holds; NULL where none was recognised"),
        Column("rows_in", "int64", "records read", "rows", required=True),
        Column("taken", "int64", "records that became rows of provider_bills", "rows", required=True),
        Column("restated", "int64", "of those, how many state an earlier line anew", "rows", required=True),
        Column("duplicates", "int64", "records that say what was known", "rows", required=True),
        Column("quarantined", "int64", "records that could not be taken", "rows", required=True),
        Column("ignored", "int64", "charges for other services, such as storage", "rows", required=True),
        Column(
            "withdrawn",
            "int64",
            "earlier lines that the file no longer has, and should",
            "rows",
            required=True,
        ),
        Column("recorded_at", "timestamp", "when it was taken", "UTC", required=True),
    ),
    key=("source", "path"),
    statistics=("source", "path", "recorded_at"),
    sort_by=("source", "path"),
    tenant_column=None,
)

QUARANTINED_BILL_LINES = Table(
    name="quarantined_bill_lines",
    row="one record of a bill that could not be taken, with the reason",
    columns=(
        Column("quarantine_id", "string", "stable id: digest over source, file and line", required=True),
        Column("source", "string", "configured source of bills, or pull", required=True),
        Column("file", "string", "path below the source", required=True),
        Column(
            "line",
            "int64",
            "line of the file, or number of the record within a JSON document, from 1; 0: the file as a whole",
            required=True,
        ),
        Column("report", "string", "kind of bill; NULL where none was recognised"),
        Column("reason", "string", "machine-readable reason", required=True),
        Column("message", "string", "what was wrong, where, and what to do", required=True),
        Column("raw", "string", "the record as it stood, cut at 64 KiB", required=True),
        Column("recorded_at", "timestamp", "when the file was taken", "UTC", required=True),
    ),
    key=("quarantine_id",),
    statistics=("source", "recorded_at"),
    sort_by=("source", "file", "line"),
    retention_days=3650,
    precedence=Precedence.RETENTION,
    tenant_column=None,
)

CAPTURE_STATES: tuple[str, ...] = (
    "captured",
    "under",
    "over",
    "no_bill",
    "nothing_logged",
    "nothing_priced",
    "nothing_billed",
    "other_currency",
)
"""`captured`: our cost is the billed amount within the tolerance. `under`, `over`: it is less, or more.
`no_bill`: costs without a bill of that day. `nothing_logged`: billed, and no request is in the logs (0 %).
`nothing_priced`: requests are in the logs, and none has a price (0 %). `nothing_billed`: the bill says
that nothing, or less, is to be paid. `other_currency`: costs and bill are in currencies without a rate."""

BILL_RECONCILIATION = Table(
    name="bill_reconciliation",
    row="one UTC day of one provider and currency: our costs beside what was billed",
    columns=(
        Column("day", "date", "UTC day", required=True),
        Column("provider", "string", "who answered; NULL where the logs do not say"),
        Column("currency", "string", "ISO 4217 code of the amounts; NULL where there is none"),
        Column("status", "string", "captured, under, over, no_bill, nothing_logged ...", required=True),
        Column("settled", "bool", "whether the bill of the day may be taken as complete", required=True),
        Column("requests", "int64", "attempts in the logs", "requests", required=True),
        Column("billable_requests", "int64", "attempts that should have a price", "requests", required=True),
        Column("priced_requests", "int64", "attempts that have one", "requests", required=True),
        Column("cost", MONEY, "our effective cost of the priced attempts; NULL where none is", "currency"),
        Column("billed", MONEY, "charges for usage, before credits; NULL where there is no bill", "currency"),
        Column("credits", MONEY, "credits of that day; negative", "currency"),
        Column(
            "other_charges",
            MONEY,
            "taxes, purchases, and charges for more than a day, which no request answers to",
            "currency",
        ),
        Column("difference", MONEY, "billed less cost; NULL where there is no bill", "currency"),
        Column(
            "capture_rate",
            "float64",
            "cost per billed amount, 1 where they are equal; NULL where nothing is billed, or there is no bill",
        ),
        Column("tolerance", "float64", "by how much the rate may differ from 1", required=True),
        Column("logged_tokens", "int64", "tokens in the logs, all buckets together", "tokens"),
        Column("billed_tokens", "int64", "tokens by the provider's usage report; NULL without one", "tokens"),
        Column("estimated", "bool", "whether the billed amount is an estimate of a gateway", required=True),
        Column("report", "string", "kind of bill that was compared; NULL where there is none"),
        Column(
            "other_reports",
            "string",
            "kinds of bill about the same day that were left out, not to count twice",
        ),
        Column(
            "converted_from", "string", "other currencies whose amounts were converted at the rate of the day"
        ),
        Column("batch", "int64", "batch of provider_bills up to which it was computed", required=True),
        Column("bills_version", "int64", "version of provider_bills", required=True),
        Column("rollup_version", "int64", "version of cost_rollup", required=True),
        Column("rates_version", "int64", "version of currency_rates; none: there were no rates"),
        Column("computed_at", "timestamp", "when it was computed", "UTC", required=True),
    ),
    key=("day", "provider", "currency"),
    statistics=("day", "provider"),
    sort_by=("day", "provider"),
    precedence=Precedence.RETENTION,
    tenant_column=None,
)

STATEMENT_LINE_KINDS: tuple[str, ...] = ("usage", "allocation", "correction")

STATEMENT_LINES = Table(
    name="statement_lines",
    row="one line of one statement that was issued to a tenant; it never changes",
    columns=(
        Column("statement_id", "string", "digest of the statement's content", required=True),
        Column("tenant", "string", "organisation that the statement is for", required=True),
        Column("month", "date", "first day of the month", required=True),
        Column("number", "int32", "number of the line, from 1", required=True),
        Column("kind", "string", "usage, allocation or correction", required=True),
        Column("provider", "string", "who answered, or whose bill is shared"),
        Column("model", "string", "model that answered"),
        Column("rule", "string", "allocation rule"),
        Column("corrects", "date", "first day of the month that a correction is about"),
        Column("description", "string", "the line in words", required=True),
        Column("requests", "int64", "attempts", "requests"),
        Column("billable_requests", "int64", "attempts that should have a price", "requests"),
        Column("priced_requests", "int64", "attempts that have one", "requests"),
        Column("assumed_requests", "int64", "attempts priced by an assumed price", "requests"),
        Column("tokens", "int64", "tokens of the attempts, all buckets together", "tokens"),
        Column("currency", "string", "ISO 4217 code of the amount; NULL where nothing is priced"),
        Column("amount", MONEY, "what is charged; NULL where no attempt could be priced", "currency"),
        Column("recorded_at", "timestamp", "when the statement was written", "UTC", required=True),
    ),
    key=("statement_id", "number"),
    statistics=("statement_id", "tenant", "month"),
    sort_by=("tenant", "month", "statement_id", "number"),
    retention_days=3650,
    precedence=Precedence.RETENTION,
)

TABLES = (PROVIDER_BILLS, BILL_FILES, QUARANTINED_BILL_LINES, BILL_RECONCILIATION, STATEMENT_LINES)
