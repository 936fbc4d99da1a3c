"""What operators tell OpenLineage about the files and tables that they read and write."""

from __future__ import annotations

import sys
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from airflow.providers.common.compat.sdk import AirflowFailException, Asset

from airflow_provider_rtisms.bulk.store import converter, types_of
from airflow_provider_rtisms.operators.lineage import LineageDataset, file_dataset, sql_datasets
from airflow_provider_rtisms.operators.rtisms import RtiSmsBulkGetDetailsOperator
from airflow_provider_rtisms.sandbox import Sandbox
from airflow_provider_rtisms.transfers.rtisms_to_sql import RtiSmsDetailsToSqlOperator
from tests.unit.operators.test_outlets import OutletEventAccessors
from tests.unit.sqlite_file import SqliteFile

KNOWN = ["4193366853543001", "4193366853543393"]
UNKNOWN = "1234567890123"

needs_openlineage = pytest.mark.skipif(
    find_spec("airflow.providers.openlineage") is None, reason="the OpenLineage provider is not installed"
)


def bulk(folder: Path, **arguments: Any) -> RtiSmsBulkGetDetailsOperator:
    (folder / "ids.txt").write_text("\n".join([*KNOWN, UNKNOWN]))
    defaults = {"submission_ids_path": str(folder / "ids.txt"), "output_path": str(folder / "details.parquet")}
    return RtiSmsBulkGetDetailsOperator(task_id="bulk", **{**defaults, "on_missing": "skip", **arguments})


def load(**arguments: Any) -> RtiSmsDetailsToSqlOperator:
    table = {"table": "details", "sql_conn_id": "warehouse", "create_table": True, "raw": True}
    defaults = {**table, "sql": "SELECT id FROM sent", "on_missing": "skip"}
    return RtiSmsDetailsToSqlOperator(task_id="load", **{**defaults, **arguments})


def lineage_of(task: Any, **context: Any) -> Any:
    """Run a task to its end, which may be a failure, and return its lineage."""
    with suppress(AirflowFailException):
        task.execute(context)
    return task.get_openlineage_facets_on_complete(None)


def names(datasets: list[Any]) -> list[tuple[str, str]]:
    return [(one.namespace, one.name) for one in datasets]


@pytest.mark.parametrize(
    ("path", "namespace", "name"),
    [
        ("/data/x.csv", "file", "/data/x.csv"),
        ("file:///data/x.csv", "file", "/data/x.csv"),
        ("s3://conn@bucket/day/x.csv", "s3://bucket", "day/x.csv"),
        ("s3://conn@bucket/a#b?c@d", "s3://bucket", "a#b?c@d"),
        ("s3a://bucket/x", "s3://bucket", "x"),
        ("gcs://bucket/x", "gs://bucket", "x"),
        ("abfs://conn@container/day/x", "abfs://container", "day/x"),
        ("https://me:secret@host/day/x?signature=secret#secret", "https://host", "day/x"),
    ],
)
def test_a_file_has_the_name_that_openlineage_gives_it(path: str, namespace: str, name: str) -> None:
    assert file_dataset(path) == LineageDataset(namespace, name)


def test_operators_work_where_openlineage_is_not_installed(
    rtisms_sandbox: Sandbox, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "airflow.providers.openlineage", None)
    monkeypatch.setitem(sys.modules, "airflow.providers.openlineage.extractors", None)
    assert lineage_of(bulk(tmp_path)) is None


@needs_openlineage
class TestBulkFetch:
    def test_input_and_outputs_are_named_with_schema_and_statistics(
        self, rtisms_sandbox: Sandbox, tmp_path: Path
    ) -> None:
        task = bulk(tmp_path, missing_path=str(tmp_path / "missing.csv"))
        lineage = lineage_of(task)
        assert names(lineage.inputs) == [("file", f"{tmp_path}/ids.txt")]
        details, missing = lineage.outputs
        assert (details.name, missing.name) == (f"{tmp_path}/details.parquet", f"{tmp_path}/missing.csv")
        assert {one.name: one.type for one in details.facets["schema"].fields} == types_of(False)
        statistics = details.outputFacets["outputStatistics"]
        assert (statistics.rowCount, statistics.size) == (2, (tmp_path / "details.parquet").stat().st_size)
        assert [one.name for one in missing.facets["schema"].fields] == ["submission_id", "reason"]
        assert missing.outputFacets["outputStatistics"].rowCount == 1

    def test_declared_inlets_and_outlets_stay_and_come_once(self, rtisms_sandbox: Sandbox, tmp_path: Path) -> None:
        outlets = [Asset("s3://warehouse/details"), Asset(f"file://{tmp_path}/details.parquet")]
        task = bulk(tmp_path, inlets=[Asset("s3://bucket/raw")], outlets=outlets)
        lineage = lineage_of(task)
        assert names(lineage.inputs) == [("file", f"{tmp_path}/ids.txt"), ("s3://bucket", "raw")]
        assert names(lineage.outputs) == [("file", f"{tmp_path}/details.parquet"), ("s3://warehouse", "details")]
        assert lineage.outputs[0].outputFacets

    def test_a_failed_task_names_no_file_that_it_has_not_written(self, rtisms_sandbox: Sandbox, tmp_path: Path) -> None:
        task = bulk(tmp_path, on_missing="fail", outlets=[Asset("s3://warehouse/details")])
        lineage = lineage_of(task)
        assert names(lineage.inputs) == [("file", f"{tmp_path}/ids.txt")]
        assert names(lineage.outputs) == [("s3://warehouse", "details")]

    def test_records_in_xcom_are_no_dataset(self, rtisms_sandbox: Sandbox, tmp_path: Path) -> None:
        task = bulk(tmp_path, submission_ids=KNOWN, submission_ids_path=None, output_path=None)
        lineage = lineage_of(task)
        assert (lineage.inputs, lineage.outputs) == ([], [])


def test_the_schema_is_that_of_the_parquet_file(tmp_path: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    with (tmp_path / "x.parquet").open("wb") as file:
        converter("x.parquet")([], file)
    words = {"timestamp": "timestamp[ms, tz=UTC]", "boolean": "bool"}
    stored = {field.name: str(field.type) for field in parquet.read_schema(tmp_path / "x.parquet")}
    assert stored == {name: words.get(kind, kind) for name, kind in types_of(False).items()}


@needs_openlineage
class TestTables:
    @pytest.fixture(autouse=True)
    def _database(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        database = SqliteFile(tmp_path / "x.db", "warehouse", monkeypatch)
        database.do("CREATE TABLE sent (id TEXT)")
        database.fill("sent", [(one,) for one in [*KNOWN, UNKNOWN]])

    def test_the_tables_of_statements_are_named(self, tmp_path: Path) -> None:
        from airflow.providers.sqlite.hooks.sqlite import SqliteHook

        hook = SqliteHook("warehouse")
        database = f"sqlite://{tmp_path}/x.db"
        sql = "SELECT id FROM sent JOIN other.days USING (id) WHERE note = 'personal'"
        inputs, outputs = sql_datasets(hook, "warehouse", sql)
        assert sorted(names(inputs)) == [(database, "main.sent"), (database, "other.days")]
        assert outputs == []
        assert sql_datasets(hook, "warehouse", "INSERT INTO details VALUES (1)") == (
            [],
            [LineageDataset(database, "main.details")],
        )

    def test_a_load_names_its_query_and_its_table(self, rtisms_sandbox: Sandbox, tmp_path: Path) -> None:
        missing = str(tmp_path / "missing.csv")
        task = load(outlets=[Asset("s3://warehouse/day")], missing_path=missing)
        events: Any = OutletEventAccessors()
        lineage = lineage_of(task, outlet_events=events)
        database_name = f"sqlite://{tmp_path}/x.db"
        assert names(lineage.inputs) == [(database_name, "main.sent")]
        assert names(lineage.outputs) == [(database_name, "main.details"), ("file", missing), ("s3://warehouse", "day")]
        table = lineage.outputs[0]
        assert {one.name: one.type for one in table.facets["schema"].fields} == types_of(True)
        assert table.outputFacets["outputStatistics"].rowCount == 2
        assert events[Asset("s3://warehouse/day")].extra["missing"] == 1

    def test_a_load_that_fails_names_no_table_that_it_has_not_written(
        self, rtisms_sandbox: Sandbox, tmp_path: Path
    ) -> None:
        (tmp_path / "ids.txt").write_text(UNKNOWN)
        task = load(sql=None, submission_ids_path=str(tmp_path / "ids.txt"), on_missing="fail")
        lineage = lineage_of(task)
        assert names(lineage.inputs) == [("file", f"{tmp_path}/ids.txt")]
        assert lineage.outputs == []

    def test_postgresql_is_named_by_host_and_database(self, monkeypatch: pytest.MonkeyPatch) -> None:
        postgres = pytest.importorskip("airflow.providers.postgres.hooks.postgres")
        monkeypatch.setenv("AIRFLOW_CONN_WAREHOUSE", "postgres://me:secret@db.example.com/sms")
        hook = postgres.PostgresHook("warehouse")
        hook.get_openlineage_default_schema = lambda: "public"  # it would ask the server
        assert sql_datasets(hook, "warehouse", 'INSERT INTO "details" VALUES (1)')[1] == [
            LineageDataset("postgres://db.example.com:5432", "sms.public.details")
        ]
