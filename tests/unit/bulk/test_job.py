"""The steps of a bulk fetch, with a client that is none: what is kept, what is raised, and in which order."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from airflow_provider_rtisms.api import errors
from airflow_provider_rtisms.api.models import SmsDetails
from airflow_provider_rtisms.api.retrying import Stats
from airflow_provider_rtisms.bulk import formats, job, local_files, object_target, progress
from airflow_provider_rtisms.bulk.distinct_ids import DistinctIds
from airflow_provider_rtisms.bulk.storage_errors import RtiSmsStorageError, RtiSmsStorageUnavailableError
from tests.patience import PATIENCE, wait_until
from tests.unit.bulk.conftest import count_descriptors
from tests.unit.bulk.stores import Store, StoredPath
from tests.unit.bulk.test_object_store import DOWN, REFUSED

pytestmark = pytest.mark.outer_minors

UNKNOWN = errors.RtiSmsNotFoundError("get_sms 404: HTTP 404.")
UNAVAILABLE = errors.RtiSmsServerError("get_sms 503: HTTP 503.")
FORBIDDEN = errors.RtiSmsForbiddenError("get_sms 403: HTTP 403.")


class TaskTimeout(BaseException):
    """What a signal handler raises, as Airflow's does for a task timeout."""


FAILURES = {"403": FORBIDDEN, "404": UNKNOWN, "405": UNKNOWN, "503": UNAVAILABLE, "0": TaskTimeout()}


class Client:
    """Takes calls in place of a client. Ids that are keys of FAILURES get these errors."""

    def __init__(self, account: str = "me") -> None:
        self.failures: dict[str, BaseException] = FAILURES
        self.settings = SimpleNamespace(max_concurrency=1, base_url="https://api", client_id=account)
        self.stats = Stats(requests=7)
        self.performed: list[str] = []

    async def perform(self, call: Any) -> SmsDetails:
        self.performed.append(call.subject)
        if call.subject in self.failures:
            raise self.failures[call.subject]
        return SmsDetails(call.subject, status="DELIVERED")


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a folder for files. No attempt of a store pauses before the next one."""
    monkeypatch.setattr("tenacity.nap.time", SimpleNamespace(sleep=lambda _: None))
    (tmp_path / "tmp").mkdir()
    monkeypatch.setattr(local_files.tempfile, "tempdir", str(tmp_path / "tmp"))
    (tmp_path / "files").mkdir()
    return tmp_path / "files"


def fetch_to_file(path: Any, *ids: str, client: Client | None = None, **options: Any) -> dict[str, Any]:
    with DistinctIds(ids) as distinct:
        return asyncio.run(job.fetch_to_file(client or Client(), distinct, path, **options))  # type: ignore[arg-type]


def fetch_to_memory(*ids: str, client: Client | None = None, **options: Any) -> list[dict[str, Any]]:
    with DistinctIds(ids) as distinct:
        return asyncio.run(job.fetch_to_memory(client or Client(), distinct, **options))  # type: ignore[arg-type]


def ids_in(path: Path) -> list[str]:
    return [json.loads(line)["submission_id"] for line in path.read_text().splitlines()]


class TestToMemory:
    def test_records_come_in_the_order_of_arrival_as_the_api_gave_them(self, caplog: pytest.LogCaptureFixture) -> None:
        caplog.set_level("INFO")
        assert fetch_to_memory("2", "1", "2") == [SmsDetails(one, status="DELIVERED").to_record() for one in "21"]
        (line,) = caplog.messages
        assert line.startswith("Bulk fetch done: {'path': None, 'requested': 2, 'fetched': 2, 'missing': 0,")
        assert "'duplicates': 1" in line
        assert "'requests': 7" in line

    def test_missing_ids_are_written_and_then_raised(self, folder: Path, caplog: pytest.LogCaptureFixture) -> None:
        path = folder / "missing.csv"
        with pytest.raises(errors.RtiSmsNotFoundError, match=rf"^2 of 3 .*: 404, 405\. All of them are in {path}\."):
            fetch_to_memory("404", "1", "405", missing_path=path)
        assert path.read_text() == "submission_id,reason\n404,get_sms 404: HTTP 404.\n405,get_sms 404: HTTP 404.\n"
        caplog.set_level("INFO")
        assert len(fetch_to_memory("404", "1", on_missing="skip", missing_path=path)) == 1
        assert f"'missing_path': '{path}'" in caplog.messages[-1]

    def test_on_missing_is_checked_first(self) -> None:
        client = Client()
        with pytest.raises(errors.RtiSmsInputError, match=r'^on_missing is .*: use "fail" or "skip"\.'):
            fetch_to_memory("1", client=client, on_missing="keep")
        assert client.performed == []


class TestToFile:
    def test_the_file_and_the_summary(self, folder: Path, caplog: pytest.LogCaptureFixture) -> None:
        caplog.set_level("INFO")
        before, began = count_descriptors(), datetime.now(UTC).replace(microsecond=0)
        path, missing = folder / "details.jsonl", folder / "missing.txt"
        summary = fetch_to_file(path, "2", "404", "1", "1", on_missing="skip", missing_path=missing)
        assert ids_in(path) == ["2", "1"]
        assert began <= datetime.fromisoformat(json.loads(path.read_text().splitlines()[0])["fetched_at"])
        assert missing.read_text() == "404\n"
        assert summary == summary | {
            "path": str(path),
            "missing_path": str(missing),
            "requested": 3,
            "fetched": 2,
            "missing": 1,
            "duplicates": 1,
            "resumed": 0,
            "requests": 7,
        }
        assert sorted(folder.iterdir()) == [path, missing]
        kept, unknown, done = caplog.messages
        assert kept.startswith(f"Records are kept in {path}.")
        assert kept.endswith(f".part until {path} is complete")
        assert unknown.startswith("1 of 3 submissions are unknown")
        assert done == f"Bulk fetch done: {summary}"
        assert count_descriptors() == before

    @pytest.mark.parametrize(
        ("ids", "error"),
        [("12*", "503"), ("12*", "403"), ("12*", "404")],
    )
    def test_an_error_says_where_the_records_are_and_the_next_attempt_takes_them(
        self, folder: Path, ids: str, error: str, caplog: pytest.LogCaptureFixture
    ) -> None:
        caplog.set_level("INFO")
        path, client = folder / "details.jsonl", Client()
        given = [error if one == "*" else one for one in ids]
        with pytest.raises(type(FAILURES[error])) as caught:
            fetch_to_file(path, *given, client=client)
        (part,) = folder.iterdir()
        assert str(caught.value).startswith("get_sms 403: HTTP 403." if error == "403" else "1 of 3")
        with DistinctIds(given) as distinct:
            assert part.name == f"details.jsonl.{distinct.digest('https://api', 'me')}.part"
        assert str(caught.value).endswith(f" 2 of 3 submissions are kept in {part}; the same fetch goes on from there.")
        assert "An earlier attempt" not in caplog.text
        client.failures = {}
        client.performed.clear()
        summary = fetch_to_file(path, *given, client=client)
        assert client.performed == [error]
        assert (summary["fetched"], summary["resumed"]) == (3, 2)
        assert "An earlier attempt has fetched 2 of 3 submissions" in caplog.messages
        assert list(folder.iterdir()) == [path]

    def test_an_interrupt_is_passed_on_and_keeps_the_records(self, folder: Path) -> None:
        with pytest.raises(TaskTimeout):
            fetch_to_file(folder / "details.jsonl", "1", "2", "0")
        (part,) = folder.iterdir()
        assert part.read_bytes().count(b"\n") == 1 + 2

    def test_another_account_has_another_part(self, folder: Path) -> None:
        for account in ("me", "you"):
            with pytest.raises(errors.RtiSmsForbiddenError):
                fetch_to_file(folder / "details.jsonl", "1", "403", client=Client(account))
        assert len(list(folder.iterdir())) == 2

    def test_arguments_are_checked_before_anything_is_touched(self, folder: Path) -> None:
        client, path = Client(), folder / "details.jsonl"
        for options in (
            {"path": path, "on_missing": "keep"},
            {"path": path, "missing_path": path},
            {"path": folder / "details.xls"},
            {"path": path, "missing_path": folder / "missing.parquet"},
        ):
            with pytest.raises(errors.RtiSmsInputError):
                fetch_to_file(options.pop("path"), "1", client=client, **options)
        assert client.performed == []
        assert list(folder.iterdir()) == []

    def test_a_folder_that_refuses_the_file_is_found_out_before_the_first_request(self, folder: Path) -> None:
        client = Client()
        (folder / "details.jsonl").mkdir()
        with pytest.raises(RtiSmsStorageError):
            fetch_to_file(folder / "details.jsonl", "1", client=client)
        assert client.performed == []


def test_the_lines_of_progress_describe_the_step_under_way(
    folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    monkeypatch.setattr(progress, "PROGRESS_EVERY", 0.005)

    async def wait_for(words: str) -> None:
        async with asyncio.timeout(PATIENCE):
            while words not in caplog.text:  # noqa: ASYNC110  # another thread logs them
                await asyncio.sleep(0.005)

    class Waiting(Client):
        async def perform(self, call: Any) -> SmsDetails:
            await wait_for("0 of 1 submissions done")
            return await super().perform(call)

    def convert(columns: Any, lines: Any, file: Any) -> None:
        file.writelines(lines)
        wait_until(lambda: "all 1 records are converted, saving them" in caplog.text, "a line")

    monkeypatch.setitem(formats._CONVERTERS, ".jsonl", convert)
    fetch_to_file(folder / "details.jsonl", "1", client=Waiting())
    caplog.clear()
    fetch_to_memory("1", client=Waiting())


class TestStore:
    """An object store takes the records every few seconds, and once more when the fetch ends."""

    @pytest.mark.parametrize(
        ("last", "attempts", "raised"),
        [("403", 6, errors.RtiSmsForbiddenError), ("404", 6, errors.RtiSmsNotFoundError), ("0", 1, TaskTimeout)],
    )
    def test_the_last_save_is_insisted_on_unless_the_task_is_killed(
        self, last: str, attempts: int, raised: type[BaseException]
    ) -> None:
        fs = Store()
        fs.failures["pipe_file"] = [None, *[DOWN] * 6]  # the probe, and then the last save
        with pytest.raises(raised):
            fetch_to_file(StoredPath(fs), "1", last)
        assert len(fs.called("pipe_file")) == 1 + attempts

    def test_a_store_that_has_just_failed_is_not_insisted_on(self) -> None:
        fs = Store()
        fs.failures["pipe_file"] = [None, *[DOWN] * 20]
        fs.failures["put_file"] = [REFUSED]
        with pytest.raises(RtiSmsStorageError, match=r"1 of 1 submissions are kept in /.*\.part on .*; the same fetch"):
            fetch_to_file(StoredPath(fs), "1")
        assert len(fs.called("pipe_file")) == 1 + 6 + 1  # the probe, before the upload, after the upload

    def test_records_are_saved_when_it_is_time(self, monkeypatch: pytest.MonkeyPatch) -> None:
        fs = Store()

        class Waiting(Client):
            async def perform(self, call: Any) -> SmsDetails:
                async with asyncio.timeout(PATIENCE):
                    # until a thread has saved the first record
                    while call.subject == "2" and not any(b'"DELIVERED"' in one for one in fs.objects.values()):  # noqa: ASYNC110
                        await asyncio.sleep(0.001)
                return await super().perform(call)

        monkeypatch.setattr(object_target, "UPLOAD_EVERY", -1.0)
        assert fetch_to_file(StoredPath(fs), "1", "2", client=Waiting())["fetched"] == 2

    def test_records_are_not_saved_before_it_is_time(self) -> None:
        fs = Store()
        with pytest.raises(errors.RtiSmsForbiddenError):
            fetch_to_file(StoredPath(fs), "1", "2", "403")
        assert len(fs.called("pipe_file")) == 2  # the probe, and one when it ends

    def test_the_file_of_missing_ids_may_not_be_the_output(self) -> None:
        with pytest.raises(errors.RtiSmsInputError, match=r"^missing_path is the same as output_path"):
            fetch_to_file(StoredPath(Store()), "1", missing_path=StoredPath(Store()))


class TestAllLines:
    """The lines of the part on their way into the file."""

    def lines(self, held: int, fetched: int) -> job._AllLines:
        part: Any = SimpleNamespace(path="x.part", lines=lambda: iter([b"line\n"] * held))
        stats: Any = SimpleNamespace(fetched=fetched)
        return job._AllLines(part, stats, Path("details.csv"))

    def test_they_may_be_read_again(self) -> None:
        lines = self.lines(3, 3)
        assert list(lines) == list(lines) == [b"line\n"] * 3

    @pytest.mark.parametrize("held", [1999, 2001])
    def test_another_number_than_was_fetched_is_an_error(self, held: int) -> None:
        with pytest.raises(
            RtiSmsStorageUnavailableError,
            match=rf"^x\.part holds {held:,} records, but 2,000 were fetched: another program has changed it\.$",
        ):
            list(self.lines(held, 2000))

    def test_progress(self) -> None:
        lines = self.lines(2000, 2000)
        assert lines.progress().startswith("Writing details.csv: 0 of 2,000 records converted, ")
        reading: Iterator[bytes] = iter(lines)
        next(reading)
        assert lines.progress().startswith("Writing details.csv: 1 of 2,000 records converted, ")
        for _ in range(1999):
            next(reading)
        assert lines.progress() == "Writing details.csv: all 2,000 records are converted, saving them"
