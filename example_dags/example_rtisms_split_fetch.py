"""Fetch many submissions with several workers, which keep to the threshold of one account together.

One task writes the ids into files. A mapped task fetches each file into a file of its own, and the last one adds up the
summaries. The pool bounds how many of them run at the same time. Create it first::

    airflow pools set rtisms 4 "Tasks that fetch from the RTI SMS API"

The DAG runs unchanged against the sandbox if you start the sandbox with ``--seed 1000``.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Any

from airflow.providers.common.compat.sdk import Asset, ObjectStoragePath, dag, task

from airflow_provider_rtisms.operators.rtisms import RtiSmsBulkGetDetailsOperator

#: The pool, and how many slots it has.
POOL, SLOTS = "rtisms", 4
#: Requests a second for all tasks together: a little less than the threshold of the account.
REQUESTS_PER_SECOND = 90.0
#: How many files, and so how many mapped tasks. More than SLOTS, so that a retry costs less.
FILES = 8
FOLDER = "{{ params.folder }}/{{ (dag_run.logical_date or dag_run.run_after) | ds }}"


@dag(
    schedule=None,
    params={"folder": "file:///tmp/rtisms-split", "first_id": 5000000000000000, "count": 1000},
    tags=["example", "rtisms"],
)
def example_rtisms_split_fetch() -> None:
    @task
    def split_ids(folder: str, params: dict[str, Any]) -> list[str]:
        """Write each id into one of the files. Replace the range with your own query."""
        ids = range(params["first_id"], params["first_id"] + params["count"])
        target = ObjectStoragePath(folder)
        target.mkdir(parents=True, exist_ok=True)
        files = [target / f"ids-{number}.txt" for number in range(FILES)]
        for number, file in enumerate(files):
            file.write_text("\n".join(map(str, ids[number::FILES])))
        return [str(file) for file in files]

    details = RtiSmsBulkGetDetailsOperator.partial(
        task_id="fetch_details",
        output_path=f"{FOLDER}/details-{{{{ ti.map_index }}}}.csv.gz",
        on_missing="skip",
        requests_per_second=REQUESTS_PER_SECOND / SLOTS,
        pool=POOL,
        retries=3,
        map_index_template="{{ task.submission_ids_path.rpartition('/')[2] }}",
    ).expand(submission_ids_path=split_ids(FOLDER))

    @task(outlets=[Asset("rtisms_split_details")])
    def add_up(summaries: Iterable[dict[str, Any]], outlet_events: Any = None) -> dict[str, Any]:
        """Return the totals, and give them to the DAGs that the asset starts."""
        all_summaries = list(summaries)
        names = ("requested", "fetched", "missing", "cost", "throttled")
        totals: dict[str, Any] = {name: sum(summary[name] for summary in all_summaries) for name in names}
        totals["by_status"] = dict(sum((Counter(summary["by_status"]) for summary in all_summaries), Counter()))
        outlet_events[Asset("rtisms_split_details")].extra = totals
        return totals

    add_up(details.output)


example_rtisms_split_fetch()
