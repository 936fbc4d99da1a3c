"""Hook lineage: what a bulk fetch reports, and what it keeps to itself."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from airflow.providers.common.compat.sdk import ObjectStoragePath

from airflow_provider_rtisms.api.errors import RtiSmsNotFoundError
from airflow_provider_rtisms.bulk import fetch as part
from airflow_provider_rtisms.hooks.rtisms import RtiSmsHook
from airflow_provider_rtisms.tables import read_id_file
from tests.unit.bulk.conftest import seeded

Reported = Callable[[], tuple[list[str], list[str]]]


@pytest.fixture
def reported(monkeypatch: pytest.MonkeyPatch) -> Iterator[Reported]:
    """Return the URIs of all inputs and of all outputs that Airflow has collected."""
    try:
        from airflow.sdk.lineage import get_hook_lineage_collector as get_own
    except ImportError:  # before Airflow 3.2
        from airflow.lineage import hook

        monkeypatch.setattr(hook, "_hook_lineage_collector", hook.HookLineageCollector())
        forget = None
    else:
        # Airflow collects only where a plugin reads it.
        monkeypatch.setattr("airflow.sdk.plugins_manager.get_hook_lineage_readers_plugins", lambda: [object])
        forget = get_own.cache_clear
        forget()
    from airflow.providers.common.compat.lineage.hook import get_hook_lineage_collector

    def read() -> tuple[list[str], list[str]]:
        collected: Any = get_hook_lineage_collector().collected_assets  # type: ignore[no-untyped-call]
        return [one.asset.uri for one in collected.inputs], [one.asset.uri for one in collected.outputs]

    yield read
    if forget:
        forget()


def test_a_fetch_into_a_store_names_the_file_and_no_parts(
    hook: RtiSmsHook, bucket: ObjectStoragePath, reported: Reported, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(part, "UPLOAD_EVERY", 0.0)
    ids, output = bucket / "ids.txt", bucket / "details.jsonl"
    with ids.fs.open(ids.path, "w") as file:
        file.write("\n".join(["1", *seeded(100)]))
    with pytest.raises(RtiSmsNotFoundError):
        hook.bulk_get_sms(read_id_file(ids), output_path=output)
    assert reported()[1] == []
    hook.bulk_get_sms(read_id_file(ids), output_path=output, on_missing="skip")
    inputs, outputs = reported()
    assert {uri.rpartition("/")[2] for uri in inputs} == {"ids.txt"}
    assert [uri.rpartition("/")[2] for uri in outputs] == ["details.jsonl"]


def test_local_files_are_named_by_their_absolute_path(
    hook: RtiSmsHook, tmp_path: Path, reported: Reported, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("ids.txt").write_text(seeded(1)[0])
    hook.bulk_get_sms(read_id_file("ids.txt"), output_path="details.jsonl", missing_path="missing.txt")
    assert reported() == (
        [f"file://{tmp_path}/ids.txt"],
        [f"file://{tmp_path}/missing.txt", f"file://{tmp_path}/details.jsonl"],
    )


def test_a_collector_that_fails_breaks_nothing(
    hook: RtiSmsHook,
    tmp_path: Path,
    reported: Reported,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr("airflow_provider_rtisms.bulk.store.asset_uri", lambda path: 1 / 0)
    hook.bulk_get_sms(seeded(1), output_path=tmp_path / "details.jsonl")
    assert reported() == ([], [])
    (warning,) = [one for one in caplog.records if one.levelname == "WARNING"]
    assert warning.getMessage() == f"The lineage of {tmp_path}/details.jsonl could not be reported"
    assert warning.exc_info


def test_without_airflow_there_is_no_lineage(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    from airflow_provider_rtisms.bulk.store import report_input

    monkeypatch.setitem(sys.modules, "airflow.providers.common.compat.lineage.hook", None)
    report_input(Path("x.csv"))
    assert caplog.messages == []
