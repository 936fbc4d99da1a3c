"""DAGs for test_fetching_for_real.py: a fetch, and what its asset event starts."""

from __future__ import annotations

from typing import Any

from airflow.providers.openlineage.utils.selective_enable import enable_lineage
from airflow.sdk import DAG, Asset, AssetAlias, task

from airflow_provider_rtisms.operators.rtisms import RtiSmsBulkGetDetailsOperator

DETAILS = Asset("details", uri="s3://warehouse/details")
RAW = Asset("raw", uri="s3://warehouse/raw")

with DAG("fetch", schedule=None) as fetch:
    RtiSmsBulkGetDetailsOperator(
        task_id="fetch",
        submission_ids_path="{{ params.folder }}/ids.csv",
        submission_ids_column="id",
        output_path="{{ params.folder }}/details.parquet",
        missing_path="{{ params.folder }}/missing.csv",
        on_missing="skip",
        inlets=[RAW],
        outlets=[DETAILS, AssetAlias("files")],
    )

enable_lineage(fetch)

with DAG("after_fetch", schedule=[DETAILS]):

    @task
    def read_counts(triggering_asset_events: Any = None) -> list[dict[str, Any]]:
        """Return what the events say that have started this run."""
        return [event.extra for events in triggering_asset_events.values() for event in events]

    read_counts()
