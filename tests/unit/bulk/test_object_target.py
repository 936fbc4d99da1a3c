"""A bulk fetch into an object store: what is in the store and what is on this machine, at each moment."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import IO, Any

import pytest

from airflow_provider_rtisms.bulk import local_files, object_target
from airflow_provider_rtisms.bulk.object_target import ObjectTarget
from airflow_provider_rtisms.bulk.part import HEADER
from airflow_provider_rtisms.bulk.storage_errors import RtiSmsStorageUnavailableError
from tests.unit.bulk.conftest import count_descriptors
from tests.unit.bulk.stores import FolderStore, Store, StoredPath
from tests.unit.bulk.test_formats import line, record
from tests.unit.bulk.test_object_store import DOWN, REFUSED

pytestmark = pytest.mark.outer_minors

FOLDER = "bucket/day/details.jsonl.d1.part"
FILE = "bucket/day/details.jsonl"


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the folder of the local parts. No attempt pauses before the next one."""
    monkeypatch.setattr("tenacity.nap.time", SimpleNamespace(sleep=lambda _: None))
    monkeypatch.setattr(local_files.tempfile, "tempdir", str(tmp_path))
    return tmp_path / f"rtisms-{os.geteuid()}"


def write_lines(lines: Iterable[bytes], file: IO[bytes]) -> None:
    file.writelines(lines)


def target_in(fs: Store, protocol: str = "s3") -> ObjectTarget:
    return ObjectTarget(StoredPath(fs, protocol), "d1", write_lines)  # type: ignore[arg-type]


def record_of(submission_id: str) -> dict[str, Any]:
    return record(submission_id=submission_id)


def line_of(submission_id: str) -> bytes:
    return line(submission_id=submission_id)


def resume(target: ObjectTarget, wanted: Sequence[str] = "123456789") -> list[str]:
    """Return the ids that a target gives back, each once."""
    taken: list[str] = []

    def accept(one: dict[str, Any]) -> bool:
        is_ours = one["submission_id"] in wanted and one["submission_id"] not in taken
        taken.extend([one["submission_id"]] * is_ours)
        return is_ours

    target.resume(accept)
    return taken


def parts(fs: Store) -> dict[str, list[bytes]]:
    """Return the lines of the part objects without their header, by key."""
    found = {key: data for key, data in fs.objects.items() if key.startswith(f"{FOLDER}/")}
    assert all(data.startswith(HEADER) and key.endswith(".jsonl") for key, data in found.items())
    return {key: data[len(HEADER) :].splitlines(keepends=True) for key, data in found.items()}


class TestResume:
    def test_it_takes_the_good_records_of_all_part_objects(self, caplog: pytest.LogCaptureFixture) -> None:
        fs = Store()
        fs.objects = {
            f"{FOLDER}/a.jsonl": HEADER + line_of("1") + b"junk\n" + line_of("0") + line_of("2"),
            f"{FOLDER}/b.jsonl": HEADER.replace(b"1", b"2", 1) + line_of("7"),
            f"{FOLDER}/c.jsonl": HEADER + line_of("2") + line_of("3"),
            f"{FOLDER}/d.jsonl": HEADER,
            "bucket/day/details.jsonl.d2.part/a.jsonl": HEADER + line_of("8"),
        }
        target = target_in(fs)
        assert resume(target) == ["1", "2", "3"]
        assert list(target.part.lines()) == [line_of("1"), line_of("2"), line_of("3")]
        assert caplog.messages == [f"{FOLDER}/b.jsonl was written by another version, or is damaged: it is not used"]
        target.save()
        assert fs.called("pipe_file") == []  # the store has all of them already
        assert target.kept_at == f"s3://conn@{FOLDER}"
        target.close()

    def test_records_of_this_machine_are_uploaded_with_the_others(self) -> None:
        fs = Store()
        fs.objects = {f"{FOLDER}/a.jsonl": HEADER + line_of("2")}
        earlier = target_in(fs)
        earlier.part.append([record_of("1")])
        earlier.part.close()
        target = target_in(fs)
        assert resume(target) == ["1", "2"]
        target.save()
        assert [line_of("1"), line_of("2")] in parts(fs).values()
        target.close()

    def test_without_permission_to_list_everything_is_fetched_again(self, caplog: pytest.LogCaptureFixture) -> None:
        fs = Store()
        fs.failures["ls"] = [REFUSED]
        target = target_in(fs)
        assert resume(target) == []
        assert caplog.messages[0].endswith("The submissions that an earlier attempt has fetched are fetched again")
        target.close()

    def test_a_store_that_is_down_fails_it(self) -> None:
        fs = Store()
        fs.failures["ls"] = [DOWN] * 6
        target = target_in(fs)
        with pytest.raises(RtiSmsStorageUnavailableError):
            resume(target)
        target.close()


class TestSave:
    def test_the_probe_is_a_part_without_records_and_is_insisted_on(self) -> None:
        fs = Store()
        fs.failures["pipe_file"] = [DOWN] * 5
        target = target_in(fs)
        target.probe()
        assert parts(fs) == {f"{FOLDER}/header.jsonl": []}
        target.close()

    def test_each_record_is_uploaded_once_in_objects_of_bounded_size(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(object_target, "PIECE_SIZE", 2 * len(line_of("1")))
        fs = Store()
        target = target_in(fs)
        target.part.append([record_of(one) for one in "12345"])
        assert target.kept_at == f"{target.part.path} on {socket.gethostname()}"
        target.save()
        assert target.kept_at == f"s3://conn@{FOLDER}"
        target.save()
        target.part.append([record_of("6")])
        target.save()
        assert list(parts(fs).values()) == [
            [line_of("1"), line_of("2")],
            [line_of("3"), line_of("4")],
            [line_of("5")],
            [line_of("6")],
        ]
        target.close()

    def test_a_refused_one_is_a_warning_and_the_rest_follows(
        self, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        monkeypatch.setattr(object_target, "PIECE_SIZE", 1)
        fs = Store()
        target = target_in(fs)
        target.part.append([record_of(one) for one in "123"])
        fs.failures["pipe_file"] = [None, DOWN]
        target.save()
        assert len(fs.called("pipe_file")) == 2  # not repeated now
        assert caplog.messages[-1].endswith(
            f"The records are kept in {target.part.path} on {socket.gethostname()} for now"
        )
        target.save()
        assert list(parts(fs).values()) == [[line_of(one)] for one in "123"]
        target.close()

    def test_the_last_one_is_insisted_on(self) -> None:
        fs = Store()
        target = target_in(fs)
        target.part.append([record_of("1")])
        fs.failures["pipe_file"] = [DOWN] * 5
        target.save(is_last=True)
        assert list(parts(fs).values()) == [[line_of("1")]]
        target.close()

    def test_it_is_due_ten_seconds_after_the_last_one(self, monkeypatch: pytest.MonkeyPatch) -> None:
        clock = SimpleNamespace(now=50.0)
        monkeypatch.setattr(object_target, "time", SimpleNamespace(monotonic=lambda: clock.now))
        fs = Store()
        target = target_in(fs)
        for is_refused in (False, True):
            clock.now += 10.0
            assert not target.is_due()
            clock.now += 0.5
            assert target.is_due()
            target.part.append([record_of("1")])
            fs.failures["pipe_file"] = [DOWN] * is_refused
            target.save()
        assert not target.is_due()
        target.close()


class TestCommit:
    @pytest.mark.parametrize("fs", [Store(), FolderStore()])
    def test_it_leaves_the_file_alone(self, folder: Path, fs: Store) -> None:
        fs.objects = {f"{FOLDER}/a.jsonl": HEADER + line_of("1"), "bucket/day/other": b""}
        target = target_in(fs, "sftp")
        resume(target)
        target.probe()
        target.part.append([record_of("2")])
        target.commit(target.part.lines())
        target.close()
        assert fs.objects == {FILE: line_of("1") + line_of("2"), "bucket/day/other": b""}
        assert fs.called("rmdir") == [FOLDER] * isinstance(fs, FolderStore)
        assert list(folder.iterdir()) == []
        names = [name for name, *_ in fs.calls]
        assert names.index("put_file") < names.index("rm_file")

    def test_one_that_fails_keeps_every_record_in_the_store(self, folder: Path) -> None:
        fs = Store()
        target = target_in(fs)
        target.part.append([record_of("1")])
        fs.failures["put_file"] = [REFUSED]
        with pytest.raises(Exception, match="Access Denied"):
            target.commit([])
        target.close()
        assert list(parts(fs).values()) == [[line_of("1")]]
        assert list(folder.iterdir()) == []

    def test_a_complete_file_leaves_no_part_even_if_the_store_has_refused_it(self, folder: Path) -> None:
        fs = Store()
        target = target_in(fs)
        target.part.append([record_of("1")])
        fs.failures["pipe_file"] = [DOWN] * 6
        target.commit(target.part.lines())
        target.close()
        assert fs.objects == {FILE: line_of("1")}
        assert list(folder.iterdir()) == []

    def test_without_permission_to_list_it_deletes_its_own_parts(self, caplog: pytest.LogCaptureFixture) -> None:
        fs = Store()
        target = target_in(fs)
        target.probe()
        fs.failures["ls"] = [REFUSED]
        target.commit([])
        target.close()
        assert list(fs.objects) == [FILE]
        assert caplog.messages == []

    @pytest.mark.parametrize(("method", "errors"), [("rm_file", [REFUSED]), ("rmdir", [REFUSED]), ("ls", [DOWN] * 6)])
    def test_parts_that_stay_are_a_warning(
        self, caplog: pytest.LogCaptureFixture, method: str, errors: list[BaseException | None]
    ) -> None:
        fs = FolderStore()
        target = target_in(fs, "sftp")
        target.probe()
        fs.failures[method] = errors
        target.commit([])
        target.close()
        assert FILE in fs.objects
        assert caplog.messages[-1].startswith(
            f"sftp://conn@{FILE} is complete, but its part objects could not be deleted."
        )
        assert caplog.messages[-1].endswith(f"Delete the folder sftp://conn@{FOLDER} yourself")


@pytest.mark.parametrize("is_refused", [False, True])
def test_the_local_part_stays_only_if_the_store_lacks_records(folder: Path, is_refused: bool) -> None:
    fs, before = Store(), count_descriptors()
    target = target_in(fs)
    target.part.append([record_of("1")])
    fs.failures["pipe_file"] = [DOWN] * is_refused
    target.save()
    target.close()
    assert [path.suffix for path in folder.iterdir()] == [".part"] * is_refused
    assert count_descriptors() == before
