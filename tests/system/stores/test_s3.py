"""A bulk fetch into S3, over HTTP and through an Airflow Connection, while the store refuses, breaks and hangs."""

from __future__ import annotations

import json
import logging
import os
import re
import signal
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from airflow_provider_rtisms.api.errors import RtiSmsForbiddenError, RtiSmsNotFoundError
from airflow_provider_rtisms.bulk import part, store
from airflow_provider_rtisms.bulk.store import RtiSmsStorageError, RtiSmsStorageUnavailableError
from airflow_provider_rtisms.hooks.rtisms import RtiSmsHook
from airflow_provider_rtisms.operators.rtisms import RtiSmsSendOperator
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


@pytest.mark.parametrize("is_first_machine", [True, False])
def test_a_retry_asks_only_for_the_rest(
    hook: RtiSmsHook,
    sandbox: Sandbox,
    s3: S3Server,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    is_first_machine: bool,
) -> None:
    monkeypatch.setattr(part, "UPLOAD_EVERY", 0.0)
    ids = ["1", *seeded(100)]
    with pytest.raises(RtiSmsNotFoundError, match=rf"100 of 101 .* kept in s3://store@bucket/{PART[:-1]}"):
        hook.bulk_get_sms(ids, output_path=URL)
    assert KEY not in s3.objects()
    assert not scratch_files(tmp_path)
    if not is_first_machine:
        monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    summary: Any = hook.bulk_get_sms(ids, output_path=URL, on_missing="skip")
    assert (summary["resumed"], summary["fetched"]) == (100, 100)
    assert ids_in(s3.objects()[KEY]) == seeded(100)
    assert list(s3.objects()) == [KEY]


class TestIdFile:
    def test_ids_come_from_an_object(self, hook: RtiSmsHook, s3: S3Server) -> None:
        s3.write("ids.csv", "\n".join(["id", *seeded(20)]).encode())
        hook.bulk_get_sms(read_id_file("s3://store@bucket/ids.csv", "id"), output_path=URL)
        assert ids_in(s3.objects()[KEY]) == seeded(20)

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


class TestMissingFile:
    def test_it_may_be_an_object(self, hook: RtiSmsHook, s3: S3Server) -> None:
        path = "s3://store@bucket/day/missing.csv"
        hook.bulk_get_sms(["1", *seeded(3)], output_path=URL, missing_path=path, on_missing="skip")
        assert sorted(s3.objects()) == [KEY, "day/missing.csv"]
        assert s3.objects()["day/missing.csv"].startswith(b"submission_id,reason\n1,")

    def test_a_refused_deletion_of_its_probe_is_a_warning(
        self, hook: RtiSmsHook, s3: S3Server, caplog: pytest.LogCaptureFixture
    ) -> None:
        s3.faults = [S3Fault(403, "DELETE")]
        hook.bulk_get_sms(seeded(3), missing_path="s3://store@bucket/day/missing.txt")
        assert re.search(r"Deleting s3://bucket/day/missing\.txt\.\w+\.probe failed.* Delete it yourself", caplog.text)


def test_the_results_of_a_send_may_be_an_object(sandbox: Sandbox, s3: S3Server) -> None:
    fault = S3Fault(503, "PUT", r"results\.csv$", times=3)
    s3.faults = [fault]
    url = "s3://store@bucket/day/results.csv"
    RtiSmsSendOperator(
        task_id="send", recipients=["+56900000100"], text="hola", sender="96000", output_path=url
    ).execute({})
    assert fault.times == 0
    assert list(s3.objects()) == ["day/results.csv"]
    assert b"submitted" in s3.objects()["day/results.csv"]


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

    def test_a_store_that_is_down_stays_retryable(self, hook: RtiSmsHook, sandbox: Sandbox, s3: S3Server) -> None:
        s3.faults = [S3Fault("drop")]
        with pytest.raises(RtiSmsStorageUnavailableError):
            hook.bulk_get_sms(seeded(50), output_path=URL)
        assert not sandbox.state().requests

    def test_without_permission_to_list_all_is_fetched(
        self, hook: RtiSmsHook, s3: S3Server, caplog: pytest.LogCaptureFixture
    ) -> None:
        s3.faults = [S3Fault(403, "GET")]
        hook.bulk_get_sms(seeded(50), output_path=URL)
        assert list(s3.objects()) == [KEY]
        assert "are fetched again" in caplog.text


class TestCommit:
    """The last upload of a fetch that was over before any part was due."""

    @pytest.mark.parametrize(
        "fault", [S3Fault(503, "PUT", rf"{KEY}$", times=5), S3Fault("drop", "PUT", rf"{KEY}$", times=5)]
    )
    def test_it_is_repeated_while_the_store_is_down(
        self, hook: RtiSmsHook, s3: S3Server, fault: S3Fault, caplog: pytest.LogCaptureFixture
    ) -> None:
        s3.faults = [fault]
        hook.bulk_get_sms(seeded(50), output_path=URL)
        assert fault.times == 0
        assert list(s3.objects()) == [KEY]
        assert re.search(
            r"Writing s3://bucket/day/details\.jsonl failed .*Attempt 1 of 6 failed, the next", caplog.text
        )

    @pytest.mark.parametrize(("status", "error"), [(403, RtiSmsStorageError), (503, RtiSmsStorageUnavailableError)])
    def test_what_was_fetched_is_kept_in_the_store(
        self, hook: RtiSmsHook, sandbox: Sandbox, s3: S3Server, tmp_path: Path, status: int, error: type[Exception]
    ) -> None:
        s3.faults = [S3Fault(status, "PUT", rf"{KEY}$")]
        with pytest.raises(error, match=rf"^Writing s3://bucket/{KEY} failed .* 50 of 50 .* kept in s3:.*{PART[:-1]}"):
            hook.bulk_get_sms(seeded(50), output_path=URL)
        assert not scratch_files(tmp_path)
        s3.faults = []
        asked = sandbox.state().requests_by_id
        summary: Any = hook.bulk_get_sms(seeded(50), output_path=URL)
        assert summary["resumed"] == 50
        assert sandbox.state().requests_by_id == asked
        assert list(s3.objects()) == [KEY]

    @pytest.mark.parametrize("status", [403, 503])
    def test_what_no_store_takes_is_kept_on_this_machine(
        self, hook: RtiSmsHook, sandbox: Sandbox, s3: S3Server, tmp_path: Path, status: int
    ) -> None:
        s3.faults = [S3Fault(status, "PUT", r"(?<!header\.jsonl)$")]
        with pytest.raises((RtiSmsStorageError, RtiSmsStorageUnavailableError)) as caught:
            hook.bulk_get_sms(seeded(50), output_path=URL)
        (kept,) = scratch_files(tmp_path)
        assert f"50 of 50 submissions are kept in {kept} on " in str(caught.value)
        s3.faults = [S3Fault(status, "PUT", rf"{KEY}$")]
        with pytest.raises((RtiSmsStorageError, RtiSmsStorageUnavailableError), match=r"50 of 50 .* kept in s3:"):
            hook.bulk_get_sms(seeded(50), output_path=URL)
        assert not scratch_files(tmp_path)  # now the store has them
        s3.faults = []
        summary: Any = hook.bulk_get_sms(seeded(50), output_path=URL)
        assert (summary["resumed"], summary["requests"]) == (50, 0)
        assert ids_in(s3.objects()[KEY]) == seeded(50)
        assert list(s3.objects()) == [KEY]
        assert not scratch_files(tmp_path)


class TestPartsDuringTheFetch:
    def test_a_refused_one_is_uploaded_later(
        self, hook: RtiSmsHook, s3: S3Server, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        monkeypatch.setattr(part, "UPLOAD_EVERY", 0.0)
        s3.faults = [S3Fault(403, "PUT", rf"{PART}(?!header)", times=1), S3Fault(403, "PUT", rf"{KEY}$")]
        with pytest.raises(RtiSmsStorageError, match=rf"100 of 100 .* kept in s3://.*{PART[:-1]}"):
            hook.bulk_get_sms(seeded(100), output_path=URL)
        assert "for now" in caplog.text
        s3.faults = []
        summary: Any = hook.bulk_get_sms(seeded(100), output_path=URL)
        assert summary["resumed"] == 100

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

    def test_an_object_of_another_version_is_not_used(self, hook: RtiSmsHook, s3: S3Server) -> None:
        with pytest.raises(RtiSmsNotFoundError):
            hook.bulk_get_sms(["1", *seeded(10)], output_path=URL)
        for key, content in s3.objects().items():
            s3.write(key, content.replace(b'"rtisms_part": 1', b'"rtisms_part": 0'))
        summary: Any = hook.bulk_get_sms(["1", *seeded(10)], output_path=URL, on_missing="skip")
        assert (summary["resumed"], summary["fetched"]) == (0, 10)
        assert list(s3.objects()) == [KEY]


class TestCleanup:
    @pytest.mark.parametrize("fault", [S3Fault(403, "DELETE"), S3Fault(503, "DELETE"), S3Fault("drop", "DELETE")])
    def test_a_refused_one_is_one_warning(
        self, hook: RtiSmsHook, s3: S3Server, fault: S3Fault, caplog: pytest.LogCaptureFixture
    ) -> None:
        s3.faults = [fault]
        summary: Any = hook.bulk_get_sms(seeded(50), output_path=URL)
        assert summary["fetched"] == 50
        assert ids_in(s3.objects()[KEY]) == seeded(50)
        (warning,) = [one for one in caplog.records if "could not be deleted" in one.message]
        assert re.search(rf"{URL} is complete.* s3://store@bucket/{PART[:-1]} yourself", warning.getMessage())
        assert warning.levelno == logging.WARNING

    def test_a_503_for_a_while_is_waited_for(self, hook: RtiSmsHook, s3: S3Server) -> None:
        s3.faults = [S3Fault(503, "DELETE", times=2)]
        hook.bulk_get_sms(seeded(50), output_path=URL)
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


def test_a_refused_api_keeps_the_records_in_the_store(hook: RtiSmsHook, sandbox: Sandbox, s3: S3Server) -> None:
    sandbox.set_faults(Fault("error", probability=0.05, times=1, statuses=(403,), path="sms"))
    with pytest.raises(RtiSmsForbiddenError, match=rf"submissions are kept in s3://.*{PART[:-1]}"):
        hook.bulk_get_sms(seeded(500), output_path=URL)
    assert any(re.search(PART, key) for key in s3.objects())
