"""The bulk fetch of the hook against the sandbox: what arrives, what stays behind, and what the API does not know."""

from __future__ import annotations

import csv
import gzip
import io
import json
import os
import re
import subprocess
import sys
import textwrap
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from airflow_provider_rtisms.api import retrying as retry
from airflow_provider_rtisms.api.errors import (
    RtiSmsConfigError,
    RtiSmsForbiddenError,
    RtiSmsInputError,
    RtiSmsNotFoundError,
    RtiSmsRateLimitError,
    RtiSmsServerError,
)
from airflow_provider_rtisms.bulk import store
from airflow_provider_rtisms.bulk.fetch import GIVE_UP_AFTER, DistinctIds, Part, fetch_to_file
from airflow_provider_rtisms.bulk.store import RtiSmsStorageError, RtiSmsStorageUnavailableError
from airflow_provider_rtisms.hooks.rtisms import RtiSmsHook
from airflow_provider_rtisms.sandbox import Fault, Sandbox, SandboxProcess
from tests.unit.bulk.conftest import UNSAVED, kill_on_the_way, seeded
from tests.unit.bulk.stores import Store, StoredPath
from tests.unit.bulk.test_store import DOWN, REFUSED

pytestmark = [pytest.mark.slow, pytest.mark.outer_minors]


def ids_in(path: Path) -> list[str]:
    return [json.loads(line)["submission_id"] for line in path.read_text().splitlines()]


def test_each_is_fetched_once_with_one_token(
    hook: RtiSmsHook, sandbox: Sandbox, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    target = tmp_path / "details.jsonl"
    ids = seeded(500)
    summary: Any = hook.bulk_get_sms([*ids, *ids[:20]], output_path=target)
    assert sorted(ids_in(target)) == ids
    assert list(tmp_path.iterdir()) == [target]
    assert summary == summary | {
        "path": str(target),
        "requested": 500,
        "fetched": 500,
        "missing": 0,
        "by_status": {"DELIVERED": 500},
        "by_operator": {"Claro": 167, "Entel Pcs": 167, "Movistar": 166},
        "cost": 500,
        "duplicates": 20,
        "resumed": 0,
        "requests": 501,
        "tokens": 1,
        "retries": 0,
    }
    kept, done = [one for one in caplog.messages if one.startswith(("Records are kept", "Bulk fetch"))]
    lines = [" ".join(one.split()) for one in caplog.messages if one.startswith("  ")]
    assert re.fullmatch(rf"Records are kept in {target}\.\w+\.part until {target} is complete", kept)
    assert done.startswith("Bulk fetch done in ")
    assert lines == [
        "fetched 500 of 500 submissions",
        "repeated ids 20",
        "status 500 DELIVERED",
        "network 167 Claro, 167 Entel Pcs, 166 Movistar",
        "cost 500",
        "requests 501, 0 retries, 0 refused with 429",
        f"file {target}",
    ]
    state = sandbox.state()
    assert set(state.requests_by_id.values()) == {1}
    assert state.tokens_issued == 1
    assert state.sockets_peak <= 32


def test_leading_zeros_make_no_other_submission(hook: RtiSmsHook, sandbox: Sandbox) -> None:
    (one,) = seeded(1)
    records: Any = hook.bulk_get_sms([f"00{one}", one, f"0{one}"])
    assert [record["submission_id"] for record in records] == [one]
    assert sandbox.state().requests_by_id == {one: 1}


def test_limits_of_the_call_go_before_those_of_the_connection(hook: RtiSmsHook, sandbox: Sandbox) -> None:
    sandbox.set_faults(Fault("latency", seconds=0.01))
    hook.bulk_get_sms(seeded(100), max_concurrency=5)
    assert sandbox.state().sockets_peak <= 5
    with pytest.raises(RtiSmsConfigError, match="max_concurrency"):
        hook.bulk_get_sms(seeded(1), max_concurrency=0)


def test_fifty_mixed_faults_lose_and_repeat_nothing(
    sandbox: Sandbox, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    patient = json.loads(sandbox.connection_json()) | {"extra": {"max_attempts": 100}}  # even all faults end no call
    monkeypatch.setenv("AIRFLOW_CONN_RTISMS_DEFAULT", json.dumps(patient))
    sandbox.set_faults(
        Fault("error", times=15, probability=0.2, path="sms", statuses=(500, 502, 503, 504)),
        Fault("reset", times=15, probability=0.2, path="sms"),
        Fault("cut_off", times=15, probability=0.2, path="sms"),
        Fault("error", times=5, probability=0.2, path="sms", statuses=(429,)),
    )
    target = tmp_path / "details.jsonl"
    summary: Any = RtiSmsHook().bulk_get_sms(seeded(1000), output_path=target)
    assert sorted(ids_in(target)) == seeded(1000)
    assert summary["throttled"] == 5
    # aiohttp itself repeats a GET whose pooled connection was reset, so the sandbox counts and not the client.
    assert sum(sandbox.state().requests_by_id.values()) == 1050


def test_a_threshold_that_stays_passed_ends_the_fetch(
    hook: RtiSmsHook, sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retry, "BACKOFF_BASE", 0.001)
    monkeypatch.setattr("airflow_provider_rtisms.api.aio.MIN_PAUSE", 0.001)
    sandbox.set_faults(Fault("error", path="sms", statuses=(429,)))
    with pytest.raises(RtiSmsRateLimitError, match="Gave up after 5 attempts"):
        hook.bulk_get_sms(seeded(5000))
    assert len(sandbox.state().requests_by_id) <= GIVE_UP_AFTER + UNSAVED  # the rest was not requested


@pytest.mark.parametrize(
    "arguments",
    [
        {"on_missing": "explode"},
        {"on_missing": "explode", "output_path": "details.jsonl"},
        {"output_path": "details.jsonl", "missing_path": "details.jsonl"},
        {"output_path": "details.xls"},
        {"missing_path": "missing.parquet"},
        {"output_path": "details.jsonl", "missing_path": "missing.parquet"},
    ],
)
def test_arguments_are_checked_before_anything_is_touched(
    hook: RtiSmsHook, sandbox: Sandbox, tmp_path: Path, arguments: dict[str, str]
) -> None:
    paths = {name: str(tmp_path / value) if name.endswith("path") else value for name, value in arguments.items()}
    with pytest.raises(RtiSmsInputError, match=next(name for name in ("missing_path", *paths) if name in paths)):
        hook.bulk_get_sms(seeded(1), **paths)  # type: ignore[arg-type]
    assert not sandbox.state().requests
    assert list(tmp_path.iterdir()) == []


class TestFailure:
    def test_a_permanent_one_stops_at_once_with_the_count_so_far(
        self, hook: RtiSmsHook, sandbox: Sandbox, tmp_path: Path
    ) -> None:
        sandbox.set_faults(Fault("error", probability=0.01, times=1, statuses=(403,), path="sms"))
        target = tmp_path / "details.jsonl"
        with pytest.raises(RtiSmsForbiddenError, match=r"403.* \d+ of 5,000 submissions are kept in .*\.part"):
            hook.bulk_get_sms(seeded(5000), output_path=target)
        assert len(sandbox.state().requests_by_id) < 2000
        assert not target.exists()

    def test_used_up_attempts_fail_after_the_rest(
        self, hook: RtiSmsHook, sandbox: Sandbox, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(retry, "BACKOFF_BASE", 0.001)
        sandbox.set_faults(Fault("error", times=5, statuses=(503,), path="sms"))
        target = tmp_path / "details.jsonl"
        with pytest.raises(RtiSmsServerError, match=r"1 of 100 submissions could not be fetched.* 99 of 100"):
            hook.bulk_get_sms(seeded(100), output_path=target, max_concurrency=1)
        summary: Any = hook.bulk_get_sms(seeded(100), output_path=target)
        assert summary["resumed"] == 99


class TestResume:
    def test_after_kill_9_only_the_rest_is_asked_for(self, tmp_path: Path) -> None:
        count = 3000
        target = tmp_path / "details.jsonl"
        fetch = textwrap.dedent(
            f"""
            from airflow_provider_rtisms.hooks.rtisms import RtiSmsHook
            from tests.unit.bulk.conftest import seeded
            summary = RtiSmsHook().bulk_get_sms(seeded({count}), output_path={str(target)!r})
            print("resumed", summary["resumed"])
            """
        )
        with SandboxProcess(seed=count) as sandbox:
            environment = os.environ | {"AIRFLOW_CONN_RTISMS_DEFAULT": sandbox.connection_json()}
            kill_on_the_way(sandbox, fetch, after=count // 2)
            asked = sum(sandbox.state().requests_by_id.values())
            assert not target.exists()
            (part,) = tmp_path.iterdir()
            saved = part.read_bytes().count(b"\n") - 1  # the header line
            assert asked - saved <= UNSAVED
            with part.open("a") as cut_off:
                cut_off.write('{"submission_id": "50000')
            second = subprocess.run([sys.executable, "-c", fetch], env=environment, capture_output=True, text=True)
            assert second.returncode == 0, second.stderr
            assert sum(sandbox.state().requests_by_id.values()) == asked + count - saved
        assert int(second.stdout.rpartition("resumed")[2]) == saved
        assert sorted(ids_in(target)) == seeded(count)
        assert list(tmp_path.iterdir()) == [target]

    def test_a_part_of_other_ids_is_never_mixed_in(self, hook: RtiSmsHook, tmp_path: Path) -> None:
        target = tmp_path / "details.jsonl"
        with pytest.raises(RtiSmsNotFoundError):
            hook.bulk_get_sms(["1", *seeded(10)], output_path=target)
        (part,) = tmp_path.iterdir()
        hook.bulk_get_sms(seeded(5), output_path=target)
        assert sorted(ids_in(target)) == seeded(5)
        assert sorted(tmp_path.iterdir()) == sorted([part, target])
        assert part.read_bytes().count(b"\n") == 1 + 10  # the header line


MEMORY = """
import re, sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from airflow_provider_rtisms.hooks.rtisms import RtiSmsHook
from tests.unit.bulk.conftest import seeded
hook = RtiSmsHook()
grown = []
for count in (2000, 20000):
    hook.bulk_get_sms((one for one in seeded(count)), output_path=f"{sys.argv[1]}/{count}.jsonl")
    # Not getrusage: its peak is handed down from the process that started this one.
    grown.append(int(re.search(r"VmHWM:\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1]))
print("grown", (grown[1] - grown[0]) // 1024)
"""


def test_memory_hardly_grows_with_the_number_of_ids(tmp_path: Path) -> None:
    with SandboxProcess(seed=20_000) as sandbox:
        environment = os.environ | {"AIRFLOW_CONN_RTISMS_DEFAULT": sandbox.connection_json()}
        done = subprocess.run(
            [sys.executable, "-c", MEMORY, str(tmp_path)], env=environment, capture_output=True, text=True, check=True
        )
    assert int(done.stdout.rpartition("grown")[2]) < 15  # MiB


class TestLastSave:
    """An object store takes the records every few seconds, and once more when the fetch ends."""

    @pytest.fixture(autouse=True)
    def folder(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("tenacity.nap.time", SimpleNamespace(sleep=lambda _: None))
        monkeypatch.setattr(store.tempfile, "tempdir", str(tmp_path))

    def fetch(self, hook: RtiSmsHook, fs: Store, *ids: str) -> Any:
        path: Any = StoredPath(fs)
        return hook.run_limited(lambda client: fetch_to_file(client, DistinctIds(ids), path))

    def test_it_is_the_only_one_of_a_short_fetch_and_insisted_on(self, hook: RtiSmsHook) -> None:
        fs = Store()
        fs.failures["pipe_file"] = [None, *[DOWN] * 5]  # the probe, and then the last save
        with pytest.raises(RtiSmsNotFoundError, match=r"1 of 2 submissions are kept in s3://.*\.part; the same fetch"):
            self.fetch(hook, fs, "1", *seeded(1))
        assert len(fs.called("pipe_file")) == 1 + 6

    def test_a_store_that_has_just_failed_is_not_insisted_on(self, hook: RtiSmsHook) -> None:
        fs = Store()
        fs.failures["pipe_file"] = [None, *[DOWN] * 20]
        fs.failures["put_file"] = [REFUSED]
        with pytest.raises(RtiSmsStorageError, match=r"1 of 1 submission is kept in /.*\.part on .*; the same fetch"):
            self.fetch(hook, fs, *seeded(1))
        assert len(fs.called("pipe_file")) == 1 + 6 + 1  # the probe, before the upload, after the upload


# --- Submissions that the API does not know: each is named, and none is lost ---

UNKNOWN = [str(number) for number in range(101, 126)]
IDS = [*UNKNOWN, *seeded(20)]


def rows_in(path: Path) -> list[list[str]]:
    """Return the rows of a file of missing ids, without a header."""
    content = path.read_bytes()
    text = (gzip.decompress(content) if path.suffix == ".gz" else content).decode()
    if ".csv" in path.name:
        header, *rows = csv.reader(io.StringIO(text))
        assert header == ["submission_id", "reason"]
        return rows
    if ".jsonl" in path.name:
        records = [json.loads(line) for line in text.splitlines()]
        assert all(list(record) == ["submission_id", "reason"] for record in records)
        return [list(record.values()) for record in records]
    return [[line] for line in text.splitlines()]


@pytest.mark.parametrize("name", ["m.txt", "m", "m.lst", "m.csv", "m.jsonl", "m.txt.gz", "m.csv.gz", "m.jsonl.gz"])
@pytest.mark.parametrize("output", [None, "details.jsonl"])
def test_skipped_ids_are_in_a_file(hook: RtiSmsHook, tmp_path: Path, name: str, output: str | None) -> None:
    path = tmp_path / "new" / name
    hook.bulk_get_sms(IDS, output_path=tmp_path / output if output else None, on_missing="skip", missing_path=str(path))
    rows = rows_in(path)
    assert sorted(row[0] for row in rows) == UNKNOWN
    assert all("404" in row[1] for row in rows if len(row) > 1)
    assert {len(row) for row in rows} == {2 if re.search("csv|jsonl", name) else 1}


@pytest.mark.parametrize("output", [None, "details.jsonl"])
def test_a_fetch_that_fails_for_them_writes_the_file_first(
    hook: RtiSmsHook, tmp_path: Path, output: str | None
) -> None:
    path = tmp_path / "missing.csv"
    with pytest.raises(RtiSmsNotFoundError, match=rf"25 of 45 .* and 15 more\. All of them are in {path}\. "):
        hook.bulk_get_sms(IDS, output_path=tmp_path / output if output else None, missing_path=path)
    assert sorted(row[0] for row in rows_in(path)) == UNKNOWN


def test_without_missing_ids_the_file_is_empty(hook: RtiSmsHook, tmp_path: Path) -> None:
    path = tmp_path / "missing.csv"
    path.write_text("yesterday's")
    summary: Any = hook.bulk_get_sms(seeded(3), output_path=tmp_path / "details.jsonl", missing_path=path)
    assert rows_in(path) == []
    assert summary["missing_ids"] == []


def test_an_incomplete_fetch_leaves_the_file_alone(
    hook: RtiSmsHook, sandbox: Sandbox, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retry, "BACKOFF_BASE", 0.001)
    sandbox.set_faults(Fault("error", times=5, statuses=(503,), path="sms"))
    path = tmp_path / "missing.txt"
    path.write_text("yesterday's")
    with pytest.raises(RtiSmsServerError):
        hook.bulk_get_sms(IDS, output_path=tmp_path / "details.jsonl", missing_path=path, max_concurrency=1)
    assert path.read_text() == "yesterday's"


class TestBeforeTheFirstRequest:
    @pytest.mark.parametrize("field", ["output_path", "missing_path"])
    @pytest.mark.parametrize("name", ["file/x.jsonl", "folder.jsonl", "/proc/x.jsonl", "x" * 300 + ".jsonl"])
    def test_a_file_that_cannot_be_written_is_found_out(
        self, hook: RtiSmsHook, sandbox: Sandbox, tmp_path: Path, name: str, field: str
    ) -> None:
        (tmp_path / "file").touch()
        (tmp_path / "folder.jsonl").mkdir()
        paths: dict[str, Any] = {"output_path": tmp_path / "details.jsonl", field: tmp_path / name}
        with pytest.raises(RtiSmsStorageError, match=r"^Writing /.* failed \("):
            hook.bulk_get_sms(IDS, **paths)
        assert not sandbox.state().requests


def test_a_part_file_that_someone_changed_is_found_out(
    hook: RtiSmsHook, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = Part.lines
    monkeypatch.setattr(Part, "lines", lambda part: list(lines(part))[1:])
    with pytest.raises(RtiSmsStorageUnavailableError, match=r"\.part holds 9 records, but 10 were fetched"):
        hook.bulk_get_sms(seeded(10), output_path=tmp_path / "details.jsonl")
    assert not (tmp_path / "details.jsonl").exists()
