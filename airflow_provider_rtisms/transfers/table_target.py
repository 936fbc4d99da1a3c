"""Private. A table as the output of a bulk fetch; its part is that of a file that is never written."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable
from typing import Any

from airflow_provider_rtisms.bulk.fetch import Target
from airflow_provider_rtisms.bulk.lineage import report_table
from airflow_provider_rtisms.bulk.part import Part
from airflow_provider_rtisms.bulk.store import private_folder, repeat, storage_path
from airflow_provider_rtisms.transfers.sql_table import SqlTable


class TableTarget(Target):
    """
    A table that takes all records at once, when the last one has been fetched.

    :param table: checked.
    :param conn_id: the Connection of the database.
    :param digest: identifies the account and the ids.
    :param part_folder: where to keep the records until then: a folder on this machine, or a URL for ObjectStoragePath.
        None for the folder for temporary files.
    :param run: identifies the DAG run; None outside of one.
    """

    def __init__(self, table: SqlTable, conn_id: str, digest: str, part_folder: Any, run: str | None = None) -> None:
        self._table = table
        folder = private_folder() if part_folder is None else storage_path("part_folder", part_folder)
        identity = hashlib.sha256(f"{conn_id}\n{table.name.quoted}".encode()).hexdigest()[:16]
        name = f"{re.sub(r'[^A-Za-z0-9_.-]', '_', str(table.name))[:60]}.{identity}.jsonl"
        super().__init__(Part(folder / name, digest, table.columns, run))

    def __str__(self) -> str:
        return f"the {self._table}"

    def commit(self, json_lines: Iterable[bytes]) -> dict[str, Any]:
        """
        Load all records in one transaction, with further attempts while the database is down.

        :return: the ``table``, and how many rows were ``written``: inserted or updated.
        """
        self.part.save()
        written = repeat(f"Writing {self}", lambda: self._table.load(json_lines))
        self.part.remove()
        if uri := self._table.uri():
            report_table(self._table.hook, uri)
        return {"table": str(self._table.name), "written": written}
