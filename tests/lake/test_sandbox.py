"""What a person's SQL can reach: the tables by name, of one tenant, and nothing else."""

from __future__ import annotations

import threading
from datetime import timedelta

import duckdb
import pyarrow as pa
import pytest

from ml_registry_pipelines.lake.lake import Lake
from ml_registry_pipelines.lake.sandbox import SqlLimits, answer, answer_over, closed_connection, run_sql
from ml_registry_pipelines.lake.sql_functions import ALLOWED, REFUSED, REFUSED_PREFIXES
from ml_registry_pipelines.lake.statement import SqlError
from tests.lake.points import DAY, TABLE, one_row, points

BOUNDED = SqlLimits(seconds=20, memory_mb=256, result_mb=16)
"""For what runs in the process of the tests, where a bomb would hurt."""


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A lake of two tenants, with prices and quarantined rows."""
    home = tmp_path_factory.mktemp("sandbox") / "home"
    with Lake(str(home)) as lake:
        lake.append_next(TABLE, points([1, 2], tenant="acme"), source="s")
        lake.append_next(TABLE, points([30], tenant="globex"), source="s")
        lake.append_next("price_catalog", one_row("price_catalog", provider="openai"), source="s")
        for tenant in ("acme", "globex", None):
            row = one_row("quarantined_rows", tenant=tenant, raw=f"raw of {tenant}")
            lake.append_next("quarantined_rows", row, source="s")
    return home


@pytest.fixture(scope="module")
def closed():
    """A closed connection for each tenant, since making one takes longer than all that is asked of it."""
    connections = {tenant: closed_connection(BOUNDED) for tenant in (None, "acme")}
    yield connections
    for connection in connections.values():
        connection.close()


@pytest.fixture
def lake(home):
    with Lake(str(home)) as lake:
        yield lake


def rows(lake: Lake, sql: str, tenant: str | None = None) -> list[tuple[object, ...]]:
    return [tuple(row.values()) for row in answer(lake, sql, tenant=tenant, limits=BOUNDED).to_pylist()]


# -- what works -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("sql", "expected"),
    [
        ("SELECT count(*), sum(value) FROM model_metrics", [(3, 33.0)]),
        ("select Value from MODEL_METRICS where VALUE > 2", [(30.0,)]),
        ("FROM model_metrics SELECT max(value);", [(30.0,)]),
        ("WITH m AS (SELECT value AS v FROM model_metrics) SELECT max(v) FROM m", [(30.0,)]),
        ("WITH model_metrics AS (SELECT value * 2 AS v FROM main.model_metrics) SELECT max(v) FROM model_metrics",
         [(60.0,)]),
        ("WITH m AS MATERIALIZED (FROM model_metrics) SELECT count(*) FROM m a JOIN m b USING (value)", [(3,)]),
        ("WITH RECURSIVE n AS (SELECT 1 AS i UNION ALL SELECT i + 1 FROM n WHERE i < 4) SELECT sum(i) FROM n", [(10,)]),
        ("VALUES (1, 'a'), (2, 'b')", [(1, "a"), (2, "b")]),
        ("(SELECT 1) UNION (SELECT 2) EXCEPT SELECT 2 ORDER BY 1 LIMIT 1", [(1,)]),
        ("SELECT i FROM range(3) t(i) WHERE i IN (SELECT unnest([1, 2])) ORDER BY i DESC", [(2,), (1,)]),
        ("SELECT (SELECT max(value) FROM model_metrics), exists(FROM alerts)", [(30.0, False)]),
        ("SELECT tenant, sum(value) OVER (PARTITION BY tenant ORDER BY value) s FROM model_metrics QUALIFY s > 2",
         [("acme", 3.0), ("globex", 30.0)]),
        ("PIVOT (SELECT tenant, value FROM model_metrics) ON tenant IN ('acme', 'globex') USING sum(value)",
         [(3.0, 30.0)]),
        ("UNPIVOT (SELECT 1 AS a, 2 AS b) ON a, b", [("a", 1), ("b", 2)]),
        ("SELECT list_transform([1, 2], lambda x: x + 1), {'a': 1}.a, [x * 2 FOR x IN [1, 2]]",
         [([2, 3], 1, [2, 4])]),
        ("SELECT DISTINCT ON (tenant) tenant FROM model_metrics ORDER BY tenant, value DESC", [("acme",), ("globex",)]),
        ("SELECT count(*) FILTER (value > 1) FROM model_metrics GROUP BY ALL HAVING count(*) > 1", [(2,)]),
        ("SELECT * EXCLUDE (a) REPLACE (b + 1 AS b) FROM (SELECT 1 AS a, 2 AS b)", [(3,)]),
        ("SELECT CASE WHEN true THEN CAST('1' AS DECIMAL(4, 2)) END::VARCHAR, NULL IS NULL, 1 BETWEEN 0 AND 2",
         [("1.00", True, True)]),
        ("SELECT count(*) FROM model_metrics a LEFT JOIN LATERAL (SELECT a.value + 1) ON true", [(3,)]),
        ("SELECT count(*) FROM model_metrics USING SAMPLE 100%", [(3,)]),
        ("SELECT value FROM model_metrics ORDER BY value LIMIT 100 % OFFSET 2", [(30.0,)]),
        ("SELECT timestamptz '2026-01-02 01:00:00+01'::varchar", [("2026-01-02 00:00:00+00",)]),
        ("SELECT key, value FROM json_each('{\"a\": 1}')", [("a", "1")]),
        ("SELECT grouping(tenant), count(*) FROM model_metrics GROUP BY ROLLUP (tenant) ORDER BY 1, 2",
         [(0, 1), (0, 2), (1, 3)]),
        ("SELECT count(*) FROM cost_rollup", [(0,)]),
    ],
)  # fmt: skip
def test_one_select_of_any_shape_is_answered(lake, sql, expected):
    assert rows(lake, sql) == expected


def test_a_query_runs_in_a_process_of_its_own_and_is_timed(home, monkeypatch):
    monkeypatch.setenv("MLREG_QUERY_TIMINGS", "on")
    with Lake(str(home), process="cli") as lake:
        assert run_sql(lake, "SELECT sum(value) AS s FROM model_metrics", tenant="acme").to_pylist() == [
            {"s": 3.0}
        ]
    with Lake(str(home)) as lake:
        timed = rows(lake, "SELECT name, process, rows FROM query_timings")
    assert ("sql", "cli", 1) in timed


@pytest.fixture(scope="module")
def many_files(tmp_path_factory):
    """A lake with a table of 30 files: a reader that stops early leaves most of them."""
    home = tmp_path_factory.mktemp("many") / "home"
    with Lake(str(home)) as lake:
        days = [points(range(2000), day=DAY + timedelta(days=n)) for n in range(30)]
        lake.append_next(TABLE, pa.concat_tables(days), source="s")
        yield lake


def test_a_query_that_stops_reading_early_is_answered(many_files):
    for sql in ("SELECT model FROM model_metrics LIMIT 1", "SELECT exists(SELECT 1 FROM model_metrics)"):
        assert run_sql(many_files, sql, tenant=None).num_rows == 1


def test_a_query_that_fails_at_its_first_row_says_why(many_files):
    with pytest.raises(SqlError, match="the query failed: Could not convert string 'm' to INT32"):
        run_sql(many_files, "SELECT model::INT FROM model_metrics", tenant=None)


def test_columns_keep_their_exact_types(lake):
    found = run_sql(lake, "SELECT unit_price, recorded_at, assumed FROM price_catalog", tenant="acme")
    declared = lake.declaration("price_catalog").schema
    assert found.schema.types == [declared.field(name).type for name in found.schema.names]
    assert pa.types.is_decimal128(found.schema.types[0])


# -- tenants ----------------------------------------------------------------------------


def test_a_tenant_sees_its_own_rows_alone_however_it_asks(lake):
    for sql in (
        "SELECT tenant FROM model_metrics",
        "SELECT tenant FROM model_metrics WHERE tenant = 'globex' OR true",
        "SELECT a.tenant FROM model_metrics a FULL JOIN main.model_metrics b ON true",
        "SELECT tenant FROM model_metrics WHERE value > 1",
        "WITH model_metrics AS (FROM main.model_metrics) SELECT tenant FROM model_metrics",
        "SELECT (SELECT max(tenant) FROM model_metrics)",
        "SELECT tenant FROM \"Model_Metrics\" WHERE day = DATE '2026-01-02'",
        "SELECT tenant FROM quarantined_rows",
    ):
        assert {found for (found,) in rows(lake, sql, tenant="acme")} == {"acme"}, sql
    assert rows(lake, "SELECT sum(value) FROM model_metrics", tenant="globex") == [(30.0,)]
    assert rows(lake, "SELECT count(*) FROM model_metrics", tenant="nobody") == [(0,)]
    assert rows(lake, "SELECT count(*) FROM model_metrics", tenant="acme' OR 'a' = 'a") == [(0,)]
    assert rows(lake, "SELECT count(*) FROM model_metrics", tenant="") == [(0,)]


def test_rows_without_a_tenant_are_the_operators(lake):
    assert rows(lake, "SELECT raw FROM quarantined_rows", tenant="acme") == [("raw of acme",)]
    assert len(rows(lake, "SELECT raw FROM quarantined_rows WHERE tenant IS NULL OR true")) == 3
    assert rows(lake, "SELECT raw FROM quarantined_rows WHERE tenant IS NULL", tenant="acme") == []


def test_prices_are_everyones_and_tables_about_the_platform_are_not(lake):
    assert rows(lake, "SELECT provider FROM price_catalog", tenant="acme") == [("openai",)]
    for table in ("query_timings", "reports", "ingested_files"):
        with pytest.raises(SqlError, match=f"there is no table '{table}' here; "):
            rows(lake, f"SELECT * FROM {table}", tenant="acme")
        rows(lake, f"SELECT * FROM {table}")


# -- what is refused --------------------------------------------------------------------

STATEMENTS = [
    "",
    "-- nothing",
    "SELECT 1; SELECT 2",
    "SELECT 1; DROP TABLE model_metrics",
    "PRAGMA version",
    "PRAGMA database_list",
    "SHOW TABLES",
    "SHOW ALL TABLES",
    "DESCRIBE model_metrics",
    "SUMMARIZE model_metrics",
    "FROM (SHOW TABLES)",
    "SELECT * FROM (DESCRIBE model_metrics)",
    "SELECT * FROM (SUMMARIZE model_metrics)",
    "EXPLAIN SELECT 1",
    "EXPLAIN ANALYZE SELECT 1",
    "COPY model_metrics TO 'leak.csv'",
    "COPY (SELECT 1) TO 'leak.csv'",
    "COPY model_metrics FROM 'leak.csv'",
    "WITH a AS (COPY model_metrics TO 'leak.csv') SELECT 1",
    "WITH a AS (COPY (SELECT 1) TO 'leak.csv') FROM a",
    "WITH a AS (INSERT INTO model_metrics SELECT * FROM model_metrics RETURNING 1) FROM a",
    "WITH a AS (DELETE FROM model_metrics RETURNING *) FROM a",
    "WITH a AS (UPDATE model_metrics SET value = 1 RETURNING *) FROM a",
    "SELECT (WITH a AS (COPY (SELECT 1) TO 'leak.csv') SELECT 1)",
    "EXPORT DATABASE 'leak'",
    "IMPORT DATABASE 'leak'",
    "ATTACH 'leak.db'",
    "ATTACH ':memory:' AS m",
    "DETACH memory",
    "USE memory",
    "INSTALL httpfs",
    "FORCE INSTALL httpfs",
    "LOAD httpfs",
    "SET enable_external_access = true",
    "SET lock_configuration = false",
    "RESET memory_limit",
    "CREATE TABLE t AS SELECT 1",
    "CREATE VIEW v AS SELECT 1",
    "CREATE MACRO m() AS 1",
    "CREATE SECRET s (TYPE s3)",
    "CREATE PERSISTENT SECRET s (TYPE s3)",
    "DROP VIEW model_metrics",
    "ALTER TABLE model_metrics ADD COLUMN x INT",
    "INSERT INTO model_metrics VALUES (1)",
    "UPDATE model_metrics SET value = 1",
    "DELETE FROM model_metrics",
    "MERGE INTO model_metrics USING alerts ON true WHEN MATCHED THEN DELETE",
    "TRUNCATE model_metrics",
    "VACUUM",
    "ANALYZE",
    "CHECKPOINT",
    "FORCE CHECKPOINT",
    "BEGIN",
    "COMMIT",
    "CALL pragma_version()",
    "CALL enable_logging()",
    "PREPARE p AS SELECT 1",
    "EXECUTE p",
    "DEALLOCATE p",
    "COMMENT ON VIEW model_metrics IS 'x'",
    "PIVOT model_metrics ON tenant USING sum(value)",
    "SELECT ?",
    "SELECT $1",
    "SELECT $name",
    "SELEC 1",
    "SELECT 'unfinished",
    "SELECT " + "(" * 5000 + "1" + ")" * 5000,
    "SELECT " + "1+" * 30_000 + "1",
    "SELECT '" + "x" * 200_000 + "'",
]
FILES = [
    "SELECT * FROM '/etc/passwd'",
    "SELECT * FROM 'secret.csv'",
    "SELECT * FROM '*.parquet'",
    'SELECT * FROM "secret.parquet"',
    "SELECT * FROM 'https://example.com/x.parquet'",
    "SELECT * FROM 's3://bucket/x.parquet'",
    *(
        f"SELECT * FROM {function}('{{folder}}/secret.csv')"
        for function in (
            *("read_csv", "read_csv_auto", "read_json", "read_json_auto", "read_ndjson", "read_json_objects"),
            *("read_parquet", "parquet_scan", "parquet_metadata", "parquet_schema", "parquet_file_metadata"),
            *(
                "parquet_kv_metadata",
                "parquet_full_metadata",
                "read_text",
                "read_blob",
                "read_duckdb",
                "sniff_csv",
                "glob",
            ),
            *(
                "read_single_csv_file",
                "read_single_parquet_file",
                "delta_scan",
                "iceberg_scan",
                "sqlite_scan",
            ),
        )
    ),
    "SELECT * FROM parquet_bloom_probe('{folder}/secret.parquet', 'a', 1)",
    "SELECT * FROM main.read_csv('{folder}/secret.csv')",
    "SELECT * FROM system.main.read_text('{folder}/secret.csv')",
    "SELECT * FROM \"READ_TEXT\"('{folder}/secret.csv')",
    "SELECT (SELECT content FROM read_text('{folder}/secret.csv'))",
    "WITH x AS (FROM read_blob('{folder}/secret.csv')) FROM x",
    "SELECT read_text('{folder}/secret.csv')",
    "SELECT * FROM query('SELECT * FROM read_text(''{folder}/secret.csv'')')",
    "SELECT * FROM query_table('{folder}/secret.csv')",
    "SELECT * FROM query_table(['model_metrics', 'alerts'])",
    "SELECT * FROM json_execute_serialized_sql(json_serialize_sql('SELECT * FROM ''{folder}/secret.csv'''))",
]
SETTINGS = [
    *(
        f"SELECT * FROM {function}()"
        for function in (
            *("duckdb_settings", "duckdb_secrets", "duckdb_variables", "duckdb_databases", "duckdb_tables"),
            *(
                "duckdb_views",
                "duckdb_columns",
                "duckdb_functions",
                "duckdb_extensions",
                "duckdb_logs",
                "duckdb_memory",
            ),
            *(
                "duckdb_temporary_files",
                "duckdb_external_file_cache",
                "duckdb_prepared_statements",
                "pragma_version",
            ),
            *(
                "pragma_database_size",
                "pragma_platform",
                "pragma_user_agent",
                "checkpoint",
                "force_checkpoint",
            ),
            *(
                "enable_logging",
                "disable_logging",
                "enable_profiling",
                "truncate_duckdb_logs",
                "test_all_types",
            ),
        )
    ),
    "SELECT * FROM which_secret('s3://b', 's3')",
    "SELECT * FROM pragma_table_info('model_metrics')",
    "SELECT * FROM pragma_storage_info('model_metrics')",
    "SELECT * FROM arrow_scan(1, 2, 3)",
    "SELECT * FROM arrow_scan_dumb(1, 2, 3)",
    "SELECT * FROM pandas_scan(1)",
    "SELECT * FROM python_map_function()",
    "SELECT * FROM seq_scan('model_metrics')",
    "SELECT * FROM repeat(1, 10)",
    "SELECT * FROM summary(TABLE model_metrics)",
    "SELECT * FROM information_schema.tables",
    "SELECT * FROM pg_catalog.pg_tables",
    "SELECT * FROM sqlite_master",
    "SELECT * FROM duckdb_tables",
    "SELECT * FROM pg_tables",
    "SELECT * FROM memory.main.model_metrics",
    "SELECT * FROM temp.model_metrics",
    "SELECT getenv('HOME')",
    "SELECT current_setting('memory_limit')",
    "SELECT getvariable('x')",
    "SELECT nextval('s')",
    "SELECT write_log('x')",
    "SELECT txid_current()",
    "SELECT current_query()",
    "SELECT current_connection_id()",
    "SELECT version()",
    "SELECT pg_catalog.pg_get_viewdef(1)",
    "SELECT system.main.current_setting('threads')",
    "SELECT list_transform(['threads'], lambda x: current_setting(x))",
    "SELECT [current_setting(x) FOR x IN ['threads']]",
    "SELECT 'threads'.current_setting()",
    "SELECT no_such_function(1)",
    "SELECT name FROM pg_settings, (WITH pg_settings AS (SELECT 1 a) FROM pg_settings) x",
    'SELECT name FROM "PG_Settings", (WITH pg_settings AS (SELECT 1 a) FROM pg_settings) x',
    "WITH pg_settings AS (SELECT 1 AS name) SELECT name FROM main.pg_settings",
    "WITH pg_settings AS (SELECT name FROM pg_settings) SELECT name FROM pg_settings",
    "WITH RECURSIVE pg_settings AS (SELECT name FROM pg_settings UNION SELECT name FROM pg_settings) FROM pg_settings",
    "WITH a AS (SELECT sql FROM duckdb_views), duckdb_views AS (SELECT 1) FROM a",
    "(WITH duckdb_logs AS (SELECT 1) FROM duckdb_logs) UNION ALL SELECT 1 FROM duckdb_logs",
    'SELECT * FROM \'secret.csv\', (WITH "secret.csv" AS (SELECT 1) FROM "secret.csv") x',
    "SELECT * FROM local_variable",
    "SELECT * FROM no_such_table",
    "SELECT * FROM model_metrics, no_such_table",
    "SELECT * FROM (SELECT * FROM (SELECT * FROM no_such_table))",
]


@pytest.mark.parametrize("sql", [*STATEMENTS, *FILES, *SETTINGS], ids=lambda sql: sql[:60] or "empty")
def test_whatever_is_not_a_select_over_tables_is_refused_in_one_sentence(
    lake, closed, tmp_path, monkeypatch, sql
):
    local_variable = pa.table({"secret": ["leaked"]})
    (tmp_path / "secret.csv").write_text("secret\nleaked\n")
    monkeypatch.chdir(tmp_path)
    before = set(tmp_path.iterdir())
    for tenant, connection in closed.items():
        typed = sql.replace("{folder}", str(tmp_path))
        with pytest.raises(SqlError) as refused:
            answer_over(connection, lake, typed, tenant=tenant, limits=BOUNDED)
        text = str(refused.value)
        assert text
        assert "\n" not in text
        assert len(text) < 600
        assert "leaked" not in text
    assert set(tmp_path.iterdir()) == before
    assert local_variable.num_rows == 1


def test_a_name_of_with_means_nothing_outside_its_reach(lake):
    for name in ("local_variable", "ingested_files"):
        with pytest.raises(SqlError, match=f"the query failed: Table with name {name} does not exist"):
            rows(lake, f"FROM {name}, (WITH {name} AS (SELECT 1) FROM {name}) x", tenant="acme")


def test_each_function_of_the_installed_duckdb_is_allowed_or_refused_by_name(closed):
    rows = (
        closed[None]
        .execute(
            """
            SELECT DISTINCT lower(function_name) FROM duckdb_functions()
            WHERE function_type NOT IN ('table', 'table_macro', 'pragma')
            """
        )
        .fetchall()
    )
    known = {name for (name,) in rows}
    refused = {name for name in known if name in REFUSED or name.startswith(REFUSED_PREFIXES)}
    assert known - ALLOWED - refused == set(), "judge these, and put each into one of the two lists"
    assert not refused & ALLOWED


def test_a_refusal_says_what_was_asked_for(lake):
    said = {
        "SHOW TABLES": "SHOW, DESCRIBE and SUMMARIZE are not allowed here; write one SELECT",
        "WITH a AS (COPY (SELECT 1) TO 'x') FROM a": "COPY is not allowed here; write one SELECT",
        "ATTACH 'x'": "ATTACH is not allowed here; write one SELECT",
        "SELECT 1; SELECT 2": "one SELECT is expected, and 2 statements were given",
        "": "one SELECT is expected, and nothing was given",
        "SELECT $1": "the query has a parameter, and none are given; write the value itself",
        "FROM read_csv('x')": "the table function read_csv is not allowed here; tables are read by name",
        "SELECT version()": "the function version is not known, or not allowed here",
        "WITH pg_settings AS (SELECT 1) FROM pg_settings": "WITH gives 'pg_settings' a meaning, and DuckDB",
        "FROM information_schema.tables": "information_schema.tables is outside the lake; tables are read",
        "SELECT 1 +": "the query cannot be read: syntax error",
        "SELECT colour FROM alerts": 'the query failed: Referenced column "colour" not found',
        "SELECT 1 / 'a'": "the query failed: Could not convert string 'a'",
    }
    for sql, text in said.items():
        with pytest.raises(SqlError) as refused:
            rows(lake, sql)
        assert str(refused.value).startswith(text)


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT * FROM read_text('{folder}/secret.csv')",
        "SELECT * FROM '{folder}/secret.csv'",
        "SELECT * FROM glob('{folder}/*')",
        "COPY (SELECT 1) TO '{folder}/leak.csv'",
        "WITH a AS (COPY (SELECT 1) TO '{folder}/leak.csv') SELECT 1",
        "ATTACH '{folder}/leak.db'",
        "EXPORT DATABASE '{folder}/leak'",
        "INSTALL httpfs",
        "LOAD httpfs",
        "SET enable_external_access = true",
        "SET temp_directory = '{folder}'",
        "SET allowed_directories = ['{folder}']",
        "SELECT * FROM local_variable",
    ],
)
def test_behind_the_look_at_the_statement_the_connection_itself_is_closed(tmp_path, sql):
    local_variable = pa.table({"secret": ["leaked"]})
    (tmp_path / "secret.csv").write_text("secret\nleaked\n")
    connection = closed_connection(BOUNDED)
    connection.execute("SET lock_configuration = true")
    with pytest.raises(duckdb.Error):
        connection.execute(sql.replace("{folder}", str(tmp_path))).fetchall()
    assert [path.name for path in tmp_path.iterdir()] == ["secret.csv"]
    assert local_variable.num_rows == 1


# -- limits -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT count(*) FROM range(1000000000000)",
        *(
            pytest.param(sql, marks=pytest.mark.soak)
            for sql in (
                "SELECT count(*) FROM range(1000000) a, range(1000000) b",
                "WITH RECURSIVE r AS (SELECT 1 AS n UNION ALL SELECT n + 1 FROM r) SELECT count(*) FROM r",
            )
        ),
        "SELECT lpad('x', 2000000000, 'yz')",
    ],
)
def test_a_query_that_does_not_end_is_stopped(lake, sql):
    with pytest.raises(
        SqlError, match=r"the query was stopped after 0\.2 s; filter more, or allow more time"
    ):
        run_sql(lake, sql, tenant="acme", limits=SqlLimits(seconds=0.2, memory_mb=256))


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT list(i) FROM range(1000000000) t(i)",
        "SELECT length(repeat('x', 4000000000))",
        *(
            pytest.param(sql, marks=pytest.mark.soak)
            for sql in (
                "SELECT length(to_json(range(300000000)))",
                "SELECT length(list_reduce(list_transform(range(40), lambda i: 'xxxxxxxxxx'), lambda a, b: a || a))",
            )
        ),
    ],
)
def test_a_query_that_needs_too_much_memory_is_stopped(lake, sql):
    with pytest.raises(SqlError, match="memory than 256 MB"):
        run_sql(lake, sql, tenant="acme", limits=SqlLimits(seconds=20, memory_mb=256, result_mb=16))


def test_an_answer_that_is_too_large_is_refused(lake):
    with pytest.raises(SqlError, match="the answer is larger than 1 MB; add a LIMIT, or aggregate"):
        answer(lake, "SELECT i FROM range(100000000000) t(i)", tenant=None, limits=SqlLimits(result_mb=1))


def test_a_query_that_was_stopped_leaves_no_thread_behind(lake):
    before = threading.active_count()
    with pytest.raises(SqlError):
        answer(lake, "SELECT count(*) FROM range(1000000000000)", tenant=None, limits=SqlLimits(seconds=0.2))
    assert threading.active_count() <= before
