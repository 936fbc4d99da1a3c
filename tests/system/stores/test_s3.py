"""A bulk fetch into S3, over HTTP and through an Airflow Connection, while the store refuses, breaks and hangs."""

from __future__ import annotations

import json
import os
import re
import signal
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from airflow_provider_rtisms.api.errors import RtiSmsNotFoundError
from airflow_provider_rtisms.bulk import fetch as part
from airflow_provider_rtisms.bulk import store
from airflow_provider_rtisms.bulk.store import RtiSmsStorageError, RtiSmsStorageUnavailableError
from airflow_provider_rtisms.hooks.rtisms import RtiSmsHook
from airflow_provider_rtisms.sandbox import Fault, Sandbox
from airflow_provider_rtisms.tables import read_id_file
from tests.patience import wait_until, with_more_time
from tests.system.stores.s3 import S3Fault, S3Server
from tests.unit.bulk.conftest import seeded

pytestmark = [pytest.mark.system, pytest.mark.slow, pytest.mark.outer_minors]

KEY = "day/details.jsonl"
URL = f"s3://store@bucket/{KEY}"
PART = rf"{re.escape(KEY)}\.\w+\.part/"


@pytest.fixture
def sandbox(rtisms_sandbox: Sandbox) -> Sandbox:
    """Return the sandbox with as many submissions as these tests ask for."""
    rtisms_sandbox.reset(seed=500)
    return rtisms_sandbox


@pytest.fixture
def hook(sandbox: Sandbox) -> RtiSmsHook:
    return RtiSmsHook()


def ids_in(lines: bytes) -> list[str]:
    return sorted(json.loads(line)["submission_id"] for line in lines.splitlines())


def scratch_files(tmp_path: Path) -> list[Path]:
    return [path for path in (tmp_path / "scratch").rglob("*") if path.is_file()]


def test_the_object_appears_and_nothing_else_stays(hook: RtiSmsHook, s3: S3Server, tmp_path: Path) -> None:
    summary: Any = hook.bulk_get_sms(seeded(50), output_path=URL)
    assert summary["path"] == URL
    assert ids_in(s3.objects().pop(KEY)) == seeded(50)
    assert list(s3.objects()) == [KEY]
    assert not scratch_files(tmp_path)
    header, records, final = [request for request in s3.requests if request.startswith("PUT")]
    assert re.search(rf"{PART}header\.jsonl$", header)
    assert re.search(PART, records)  # saved before the last upload
    assert final == f"PUT bucket/{KEY}"  # no staging object: a PUT is atomic


def test_a_url_without_a_connection_uses_the_environment(
    hook: RtiSmsHook, s3: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Airflow opens such a store with asyncio.run, which fails on our event loop."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "not-secret")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    monkeypatch.setenv("AWS_ENDPOINT_URL", s3.url)
    hook.bulk_get_sms(seeded(5), output_path=f"s3://bucket/{KEY}")
    assert list(s3.objects()) == [KEY]


class TestIdFile:
    @pytest.mark.parametrize(
        ("fault", "error", "words"),
        [
            (None, RtiSmsStorageError, "FileNotFoundError.* must exist"),
            (S3Fault(403), RtiSmsStorageError, "PermissionError.* permission"),
            (S3Fault(503), RtiSmsStorageUnavailableError, "again later"),
            (S3Fault("drop"), RtiSmsStorageUnavailableError, "again later"),
        ],
    )
    def test_an_object_that_cannot_be_read_is_explained(
        self, s3: S3Server, fault: S3Fault | None, error: type[Exception], words: str
    ) -> None:
        s3.faults = [fault] if fault else []
        with pytest.raises(
            error, match=rf"^Reading s3://store@bucket/ids\.txt \(submission_ids_path\) failed .*{words}"
        ):
            list(read_id_file("s3://store@bucket/ids.txt"))

    def test_it_is_read_in_pieces_and_each_is_repeated(
        self, s3: S3Server, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        monkeypatch.setattr(store, "PIECE_SIZE", 100)
        s3.write("ids.txt", "\n".join(seeded(50)).encode())
        fault = S3Fault(503, "GET", r"ids\.txt$", times=3)
        s3.faults = [fault]
        assert list(read_id_file("s3://store@bucket/ids.txt")) == seeded(50)
        assert fault.times == 0
        assert "Attempt 3 of 6 failed" in caplog.text

    def test_a_store_that_never_responds_is_given_up(self, s3: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(store, "ATTEMPTS", 1)
        monkeypatch.setattr(store, "DEADLINE", 0.5)  # less than the read timeout of the Connection
        s3.write("ids.txt", b"1")
        s3.faults = [S3Fault("hang", "GET", r"ids\.txt$")]
        with pytest.raises(RtiSmsStorageUnavailableError, match=r"submission_ids_path.* failed .*Timeout"):
            list(read_id_file("s3://store@bucket/ids.txt"))

    def test_an_object_that_is_replaced_meanwhile_is_noticed(self, s3: S3Server) -> None:
        s3.write("ids.txt", "\n".join(seeded(20)).encode())
        ids = read_id_file("s3://store@bucket/ids.txt")
        next(ids)
        s3.write("ids.txt", "\n".join(reversed(seeded(20))).encode())
        with pytest.raises(RtiSmsStorageUnavailableError, match="replaced the object"):
            list(ids)


class TestBeforeTheFirstRequest:
    def test_a_store_that_may_not_be_written_is_found_out(
        self, hook: RtiSmsHook, sandbox: Sandbox, s3: S3Server, tmp_path: Path
    ) -> None:
        s3.faults = [S3Fault(403, "PUT")]
        with pytest.raises(RtiSmsStorageError, match=r"^Writing s3://bucket/day.* Access Denied.*permission"):
            hook.bulk_get_sms(seeded(50), output_path=URL)
        assert not sandbox.state().requests
        assert not scratch_files(tmp_path)

    def test_a_missing_bucket_is_found_out_and_not_created(
        self, hook: RtiSmsHook, sandbox: Sandbox, s3: S3Server
    ) -> None:
        with pytest.raises(RtiSmsStorageError, match=r"bucket.* must exist"):
            hook.bulk_get_sms(seeded(50), output_path="s3://store@typo/day/details.jsonl")
        assert not sandbox.state().requests
        assert "PUT typo" not in s3.requests


class TestPartsDuringTheFetch:
    def test_a_killed_task_saves_what_it_has(
        self, hook: RtiSmsHook, sandbox: Sandbox, s3: S3Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        """Airflow's timeout and SIGTERM raise in the middle of the event loop."""

        class TaskTimeout(BaseException):
            pass

        def raise_timeout(*_: object) -> None:
            raise TaskTimeout

        # A few responses never come, so that the fetch cannot end before it is killed.
        some_hang = Fault("latency", seconds=3600, probability=0.02, path="sms")
        sandbox.set_faults(Fault("latency", seconds=0.1, path="sms"), some_hang)
        before = signal.signal(signal.SIGALRM, raise_timeout)

        def kill() -> None:
            wait_until(lambda: sandbox.state().count_responses(200, "GET sms") > 40, "40 responses")
            os.kill(os.getpid(), signal.SIGALRM)

        try:
            with ThreadPoolExecutor(1) as thread:
                thread.submit(kill)
                with pytest.raises(TaskTimeout):
                    hook.bulk_get_sms(seeded(500), output_path=URL, max_concurrency=8)
        finally:
            signal.signal(signal.SIGALRM, before)
        sandbox.set_faults()
        monkeypatch.setattr("tempfile.tempdir", str(tmp_path))  # the retry runs on another machine
        summary: Any = hook.bulk_get_sms(seeded(500), output_path=URL)
        assert 20 < summary["resumed"] < 500
        assert ids_in(s3.objects()[KEY]) == seeded(500)

    def test_a_retry_on_the_same_machine_does_not_read_its_own_objects(
        self, hook: RtiSmsHook, s3: S3Server, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """As after kill -9: the store holds what the local part holds, but for the end."""
        monkeypatch.setattr(part, "UPLOAD_EVERY", 0.0)
        monkeypatch.setattr(part, "PIECE_SIZE", 4000)
        monkeypatch.setattr(part.Part, "close", part.Part._close)
        ids = ["1", *seeded(100)]
        with pytest.raises(RtiSmsNotFoundError):
            hook.bulk_get_sms(ids, output_path=URL)
        pieces = sorted(key for key in s3.objects() if "header" not in key)
        assert len(pieces) > 5
        s3.delete(pieces[-1])
        s3.requests = []
        summary: Any = hook.bulk_get_sms(ids, output_path=URL, on_missing="skip")
        assert (summary["resumed"], summary["fetched"]) == (100, 100)
        assert not [one for one in s3.requests if one.startswith("GET") and any(piece in one for piece in pieces)]
        uploads = [one for one in s3.requests if re.search(rf"^PUT .*{PART}(?!header)", one)]
        assert [pieces[-1] in one for one in uploads] == [True]
        assert list(s3.objects()) == [KEY]


def test_a_hanging_store_is_given_up(hook: RtiSmsHook, s3: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store, "ATTEMPTS", 1)
    s3.faults = [S3Fault("hang", "PUT", rf"{KEY}$")]

    def attempt(deadline: float) -> str:
        monkeypatch.setattr(store, "DEADLINE", 4 * deadline)
        with pytest.raises(RtiSmsStorageUnavailableError) as caught:
            hook.bulk_get_sms(seeded(50), output_path=URL)
        return str(caught.value)

    assert "TimeoutError" in with_more_time(attempt, was_enough=lambda message: "50 of 50" in message)
