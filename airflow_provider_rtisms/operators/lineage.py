"""
What a task tells Airflow and OpenLineage of what it has read and written.

OpenLineage calls ``get_openlineage_facets_on_complete`` of an operator. Then it ignores the inlets and outlets that the
task declares, so these are added here. This needs ``apache-airflow-providers-openlineage``; the operators do not.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from airflow.providers.openlineage.extractors import OperatorLineage

    from airflow_provider_rtisms.bulk.store import StoragePath
    from airflow_provider_rtisms.compat import Context

log = logging.getLogger(__name__)

#: Schemes of URLs that OpenLineage gives another name.
_SCHEMES = {"s3a": "s3", "s3n": "s3", "gcs": "gs"}


def add_to_outlet_events(
    context: Context, outlets: Collection[Any], extra: Mapping[str, Any], path: str | None = None
) -> None:
    """
    Add counts to the event of each declared outlet. A failure is only logged.

    :param outlets: of the task: assets (Airflow 2: datasets), aliases, and others, which have no events.
    :param extra: JSON-safe. What a DAG author has added stays.
    :param path: of the file that the task has written. An alias gets an event for it.
    """
    events: Any = context.get("outlet_events")
    if events is None:
        return
    from airflow_provider_rtisms.bulk.store import asset_uri
    from airflow_provider_rtisms.compat import Asset, AssetAlias

    for outlet in outlets:
        try:
            if isinstance(outlet, AssetAlias):
                if path is not None:
                    events[outlet].add(Asset(asset_uri(path)), extra=dict(extra))
            elif isinstance(outlet, Asset) or _is_reference(outlet):
                event = events[outlet]
                event.extra = {**extra, **event.extra}
        except Exception:
            log.warning("The counts could not be added to the event of the outlet %s", outlet, exc_info=True)


def _is_reference(outlet: Any) -> bool:
    """Return whether an outlet is ``Asset.ref(...)``, which is new in Airflow 3."""
    try:
        from airflow.sdk.definitions.asset import AssetRef
    except ImportError:
        return False
    return isinstance(outlet, AssetRef)


@dataclass(frozen=True)
class LineageDataset:
    """A file or a table, with the types of its columns, and the rows and bytes that were written, if known."""

    namespace: str
    name: str
    columns: Mapping[str, str] | None = None
    rows: int | None = None
    size: int | None = None


def file_dataset(path: str | StoragePath, **described: Any) -> LineageDataset:
    """Return the dataset of a file, local or in an object store; the conn_id of a URL is left out."""
    from airflow_provider_rtisms.bulk.store import asset_uri

    scheme, _, rest = asset_uri(path).partition("://")
    if scheme == "file":
        return LineageDataset("file", rest, **described)
    bucket, _, key = rest.partition("/")
    return LineageDataset(f"{_SCHEMES.get(scheme, scheme)}://{bucket}", key, **described)


def is_installed() -> bool:
    """Return whether the OpenLineage provider is installed."""
    try:
        import airflow.providers.openlineage.extractors  # noqa: F401
    except ImportError:
        return False
    return True


def sql_datasets(hook: Any, conn_id: str, sql: str) -> tuple[list[LineageDataset], list[LineageDataset]]:
    """Return the tables that a statement reads, and those that it writes. It is parsed, not run, and goes nowhere."""
    from airflow.providers.openlineage.sqlparser import DatabaseInfo, SQLParser

    connection = hook.get_connection(conn_id)
    info = hook.get_openlineage_database_info(connection)
    schema = hook.get_openlineage_default_schema()
    if info is None:  # a hook without support for OpenLineage, such as that of SQLite
        authority = f"{connection.host or ''}{f':{connection.port}' if connection.port else ''}"
        info = DatabaseInfo(scheme=connection.conn_type, authority=authority, database=connection.schema)
        schema = "main" if connection.conn_type == "sqlite" else schema
    parser = SQLParser(hook.get_openlineage_database_dialect(connection), schema)
    found = parser.generate_openlineage_metadata_from_sql(sql, hook, info, use_connection=False)
    inputs = [LineageDataset(one.namespace, one.name) for one in found.inputs]
    outputs = [LineageDataset(one.namespace, one.name) for one in found.outputs]
    return inputs, outputs


def table_dataset(hook: Any, conn_id: str, table: str, **described: Any) -> LineageDataset:
    """Return the dataset of one table, whose name is quoted."""
    _, (dataset,) = sql_datasets(hook, conn_id, f"INSERT INTO {table} VALUES (1)")  # noqa: S608  # parsed only
    return replace(dataset, **described)


def operator_lineage(
    task: Any, inputs: Iterable[LineageDataset], outputs: Iterable[LineageDataset]
) -> OperatorLineage[Any, Any] | None:
    """
    Return what ``get_openlineage_facets_on_complete`` returns, with the declared inlets and outlets of a task.

    :return: None if the OpenLineage provider is not installed.
    """
    if not is_installed():
        return None
    from airflow.providers.openlineage.extractors import ExtractorManager, OperatorLineage
    from openlineage.client.event_v2 import InputDataset, OutputDataset

    def with_declared(datasets: list[Any], declared: Iterable[Any]) -> list[Any]:
        known = {(one.namespace, one.name) for one in datasets}
        converted = map(ExtractorManager.convert_to_ol_dataset, declared)
        return datasets + [one for one in converted if one is not None and (one.namespace, one.name) not in known]

    read = [InputDataset(one.namespace, one.name, facets=_facets(one)) for one in inputs]
    written = [
        OutputDataset(one.namespace, one.name, facets=_facets(one), outputFacets=_statistics(one)) for one in outputs
    ]
    return OperatorLineage(inputs=with_declared(read, task.inlets), outputs=with_declared(written, task.outlets))


def missing_dataset(path: str, rows: int) -> LineageDataset:
    """Return the dataset of the file of missing ids."""
    from airflow_provider_rtisms.bulk.store import missing_columns

    return file_dataset(path, columns=dict.fromkeys(missing_columns(path), "string"), rows=rows)


def _facets(dataset: LineageDataset) -> dict[str, Any]:
    from openlineage.client.facet_v2 import schema_dataset

    if dataset.columns is None:
        return {}
    fields = [schema_dataset.SchemaDatasetFacetFields(name, kind) for name, kind in dataset.columns.items()]
    return {"schema": schema_dataset.SchemaDatasetFacet(fields=fields)}


def _statistics(dataset: LineageDataset) -> dict[str, Any]:
    from openlineage.client.facet_v2 import output_statistics_output_dataset as statistics

    if dataset.rows is None and dataset.size is None:
        return {}
    facet = statistics.OutputStatisticsOutputDatasetFacet(rowCount=dataset.rows, size=dataset.size)
    return {"outputStatistics": facet}
