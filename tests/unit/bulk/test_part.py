"""The part of a fetch: what survives a kill, what damage does, who may read it, and its copies in a store."""

from __future__ import annotations

import fcntl
import os
import socket
import stat
from collections.abc import Callable, Iterable
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from airflow_provider_rtisms.api.errors import RtiSmsNotFoundError, RtiSmsTransientError
from airflow_provider_rtisms.api.models import SmsDetails
from airflow_provider_rtisms.bulk import fetch as part_module
from airflow_provider_rtisms.bulk import store
from airflow_provider_rtisms.bulk.fetch import HEADER, DistinctIds, LineReader, Part, stamp
from airflow_provider_rtisms.bulk.store import Record, RtiSmsStorageError, RtiSmsStorageUnavailableError, to_line
from airflow_provider_rtisms.hooks.rtisms import RtiSmsHook
from tests.unit.bulk.conftest import open_files, seeded
from tests.unit.bulk.stores import FolderStore, Store, StoredPath
from tests.unit.bulk.test_store import DOWN, REFUSED

NAME = "details.jsonl.d1.part"
FOLDER = "bucket/day/details.jsonl.d1.part"


def record(submission_id: str = "1", **changes: Any) -> Record:
    """Return a record as a part holds it."""
    made = SmsDetails(submission_id).to_record()
    stamp([made], datetime(2026, 1, 1, tzinfo=UTC))
    return made | changes


pytestmark = pytest.mark.outer_minors


def line(submission_id: str = "1", **changes: Any) -> bytes:
    return to_line(record(submission_id, **changes))


def open_part(output: Any, **options: Any) -> closing[Part]:
    return closing(Part(output / "details.jsonl" if isinstance(output, Path) else output, "d1", **options))


def resume(part: Part, wanted: Iterable[str] = "123") -> list[str]:
    """Return the wanted ids that a part gives back, each once."""
    ids, reader, taken = DistinctIds(wanted), LineReader(), []

    def take(one: bytes) -> bool | None:
        found = reader.read(one)
        if found is None:
            return None
        is_ours = ids.discard(found[0])
        taken.extend([str(found[0])] * is_ours)
        return is_ours

    part.resume(take)
    return taken


def resumed(folder: Path) -> list[str]:
    with open_part(folder) as part:
        return resume(part)


#: What is damage in a line is in test_formats.py.
DAMAGE = {
    "cut off": line("2")[:-20],
    "no JSON": b"junk\n",
    "repeated": line("1"),
    "field of another version": line("2", shoe_size=43),
    "not UTF-8": line("2")[:-3] + b"\xff\n",
    "a zero before the id": line("02"),
    "endless": b"x" * 10_000,
    "zeros of a disk that lost its power": b"\0" * 500,
}


class TestDamage:
    @pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE.keys())
    def test_only_the_damaged_lines_are_lost(
        self, tmp_path: Path, damage: bytes, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        monkeypatch.setattr(part_module, "MAX_LINE", 1000)
        monkeypatch.setattr(part_module, "_READ_SIZE", 64)
        path = tmp_path / NAME
        separator = b"" if damage.endswith(b"\n") else b"\n"
        path.write_bytes(HEADER + line("1") + damage + separator + line("3"))
        with open_part(tmp_path) as part:
            assert max(map(len, part.lines())) < 1100  # a line without end does not fill the memory
        assert resumed(tmp_path) == ["1", "3"]
        assert path.read_bytes() == HEADER + line("1") + line("3")
        assert ("damaged lines were removed" in caplog.text) is (damage != line("1"))
        path.write_bytes(HEADER + line("1") + damage)
        assert resumed(tmp_path) == ["1"]
        assert path.read_bytes() == HEADER + line("1")

    def test_lines_that_are_not_kept_leave_no_gap(self, tmp_path: Path) -> None:
        with open_part(tmp_path) as part:
            part.append([record(one) for one in "9182"])
            assert resume(part) == ["1", "2"]
            part.append([record("3")])
        assert (tmp_path / NAME).read_bytes() == HEADER + line("1") + line("2") + line("3")

    @pytest.mark.parametrize("content", [line("1"), b"x", HEADER[:20], HEADER.replace(b"1", b"2", 1) + line("1")])
    def test_a_part_of_another_version_is_replaced_and_never_overwritten(
        self, tmp_path: Path, content: bytes, caplog: pytest.LogCaptureFixture
    ) -> None:
        path, other = tmp_path / NAME, tmp_path / "hard link"
        path.write_bytes(content)
        other.hardlink_to(path)
        assert resumed(tmp_path) == []
        assert path.read_bytes() == HEADER
        assert other.read_bytes() == content
        assert "another version" in caplog.text
        assert open_files(tmp_path) == []

    def test_the_header_stays_the_same_so_that_later_versions_go_on_from_it(self, tmp_path: Path) -> None:
        assert HEADER == (
            b'{"rtisms_part": 1, "columns": ["submission_id", "status", "status_code", "is_final", "registered_at", '
            b'"sent_at", "done_at", "cost", "operator_id", "operator_name", "operator_mcc", "operator_mnc", '
            b'"fetched_at"]}\n'
        )
        with open_part(tmp_path, run="nightly\nscheduled__2026-01-01") as part:
            assert part.path.read_bytes() == HEADER[:-2] + b', "run": "95ca92af51f60997"}\n'

    def test_a_full_disk_leaves_whole_lines(self, tmp_path: Path) -> None:
        resource = pytest.importorskip("resource")
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        with open_part(tmp_path) as part:
            part.append([record("1")])
            resource.setrlimit(resource.RLIMIT_FSIZE, (part.size + 10, hard))
            try:
                with pytest.raises(RtiSmsStorageUnavailableError, match="File too large"):
                    part.append([record("2")])
            finally:
                resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
            part.append([record("3")])
        assert resumed(tmp_path) == ["1", "3"]


def _replace(path: Path) -> None:
    path.unlink()
    path.touch()


def _move_and_link(path: Path) -> None:
    path.rename(path.with_suffix(".moved"))
    path.symlink_to(path.with_suffix(".moved"))


class TestOneProcess:
    def test_it_is_for_one_process_at_a_time(self, tmp_path: Path) -> None:
        with open_part(tmp_path), pytest.raises(RtiSmsTransientError, match="Another process"):
            open_part(tmp_path)

    @pytest.mark.parametrize("change", [Path.unlink, _replace, _move_and_link])
    def test_a_part_that_another_process_has_just_finished_is_not_used(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: Callable[[Path], None]
    ) -> None:
        monkeypatch.setattr(part_module.fcntl, "flock", lambda *_: change(tmp_path / NAME))
        with pytest.raises(RtiSmsTransientError, match="Another process is fetching the same submissions into"):
            open_part(tmp_path)
        assert open_files(tmp_path) == []

    @pytest.mark.parametrize("step", ["flock", "fstat", "pread"])
    def test_an_interrupt_while_it_opens_leaves_no_lock(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
    ) -> None:
        (tmp_path / NAME).write_bytes(HEADER)

        def interrupt(*_: Any) -> None:
            raise KeyboardInterrupt

        with monkeypatch.context() as patch:
            if step == "fstat":  # which is called by open_private first
                patch.setattr(os.path, "samestat", interrupt)
            else:
                patch.setattr(fcntl if step == "flock" else os, step, interrupt)
            with pytest.raises(KeyboardInterrupt):
                open_part(tmp_path)
        assert open_files(tmp_path) == []
        with open_part(tmp_path):
            pass


class TestWhoMayRead:
    def test_the_part_is_private_and_the_file_follows_the_umask(self, hook: RtiSmsHook, tmp_path: Path) -> None:
        before = os.umask(0o022)
        target, ids, modes = tmp_path / "details.jsonl", [*seeded(3), "1"], {}
        with pytest.raises(RtiSmsNotFoundError):
            hook.bulk_get_sms(ids, output_path=target)
        (part,) = tmp_path.iterdir()
        modes["part"] = stat.S_IMODE(part.stat().st_mode)
        part.chmod(0o644)
        hook.bulk_get_sms(ids, output_path=target, on_missing="skip")
        modes["file"] = stat.S_IMODE(target.stat().st_mode)
        os.umask(before)
        assert modes == {"part": 0o600, "file": 0o644}

    @pytest.mark.parametrize("suffix", ["part", "staging"])
    def test_a_symbolic_link_is_not_followed(self, hook: RtiSmsHook, tmp_path: Path, suffix: str) -> None:
        precious, target = tmp_path / "precious", tmp_path / "out" / "details.jsonl"
        precious.write_bytes(b"mine")
        with pytest.raises(RtiSmsNotFoundError):
            hook.bulk_get_sms(["1"], output_path=target)
        (part,) = target.parent.iterdir()
        link = part.with_suffix(f".{suffix}")
        link.unlink(missing_ok=True)
        link.symlink_to(precious)
        if suffix == "part":
            with pytest.raises(RtiSmsStorageError, match=r"\.part is a symbolic link"):
                hook.bulk_get_sms(["1"], output_path=target, on_missing="skip")
        else:
            hook.bulk_get_sms(["1"], output_path=target, on_missing="skip")
        assert precious.read_bytes() == b"mine"


def test_a_part_that_cannot_be_removed_is_a_warning(
    hook: RtiSmsHook, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: Any
) -> None:
    unlink = Path.unlink

    def refuse(path: Path, missing_ok: bool = False) -> None:
        if path.suffix == ".part":
            raise PermissionError(1, "Operation not permitted")
        unlink(path, missing_ok)

    monkeypatch.setattr(Path, "unlink", refuse)
    hook.bulk_get_sms(seeded(3), output_path=tmp_path / "details.jsonl")
    assert len((tmp_path / "details.jsonl").read_bytes().splitlines()) == 3
    assert "could not be removed" in caplog.text


class TestCopies:
    """In an object store; what a real one does to them is in tests/system/stores."""

    @pytest.fixture(autouse=True)
    def folder(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
        """Return the folder of the local parts. No attempt pauses before the next one."""
        monkeypatch.setattr("tenacity.nap.time", SimpleNamespace(sleep=lambda _: None))
        monkeypatch.setattr(store.tempfile, "tempdir", str(tmp_path))
        return tmp_path / f"rtisms-{os.geteuid()}"

    def open(self, fs: Store | None = None, protocol: str = "s3") -> closing[Part]:
        return open_part(StoredPath(fs or Store(), protocol))

    def copies(self, fs: Store) -> list[list[bytes]]:
        """Return the lines of each part object, without their header."""
        found = [data for key, data in sorted(fs.objects.items()) if key.startswith(f"{FOLDER}/")]
        assert all(data.startswith(HEADER) for data in found)
        return [data[len(HEADER) :].splitlines(keepends=True) for data in found]

    def test_a_resume_takes_the_good_records_of_all(self, caplog: pytest.LogCaptureFixture) -> None:
        fs = Store()
        fs.objects = {
            f"{FOLDER}/a.jsonl": HEADER + line("1") + b"junk\n" + line("7") + line("2"),
            f"{FOLDER}/b.jsonl": HEADER.replace(b"1", b"2", 1) + line("3"),
            f"{FOLDER}/c.jsonl": HEADER + line("2") + line("3"),
            f"{FOLDER}/d.jsonl": HEADER,
            "bucket/day/details.jsonl.d2.part/a.jsonl": HEADER + line("8"),
        }
        with self.open(fs) as part:
            assert resume(part) == ["1", "2", "3"]
            assert list(part.lines()) == [line("1"), line("2"), line("3")]
            what = f"{FOLDER}/b.jsonl was written by another version, or is damaged: it is not used"
            assert caplog.messages == [what]
            part.save()
            assert fs.called("pipe_file") == []  # the store has all of them already
            assert part.kept_at == f"s3://conn@{FOLDER}"

    def test_records_of_this_machine_are_uploaded_with_the_others(self) -> None:
        fs = Store()
        fs.objects = {f"{FOLDER}/a.jsonl": HEADER + line("2")}
        with self.open(fs) as earlier:
            earlier.append([record("1")])
        with self.open(fs) as part:
            assert resume(part) == ["1", "2"]
            part.save()
            assert [line("1"), line("2")] in self.copies(fs)

    def test_a_store_that_is_down_fails_the_resume(self) -> None:
        fs = Store()
        fs.failures["ls"] = [DOWN] * 6
        with self.open(fs) as part, pytest.raises(RtiSmsStorageUnavailableError):
            resume(part)

    def test_each_record_is_uploaded_once_in_objects_of_bounded_size(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(part_module, "PIECE_SIZE", 2 * len(line("1")))
        fs = Store()
        with self.open(fs) as part:
            part.append([record(one) for one in "12345"])
            assert part.kept_at == f"{part.path} on {socket.gethostname()}"
            part.save()
            part.save()
            part.append([record("6")])
            part.save()
            assert self.copies(fs) == [[line("1"), line("2")], [line("3"), line("4")], [line("5")], [line("6")]]

    def test_one_is_due_ten_seconds_after_the_last(self, monkeypatch: pytest.MonkeyPatch) -> None:
        clock = SimpleNamespace(now=50.0)
        monkeypatch.setattr(part_module, "time", SimpleNamespace(monotonic=lambda: clock.now))
        fs = Store()
        with self.open(fs) as part:
            for is_refused in (False, True):
                clock.now += 10.0
                assert not part.is_due()
                clock.now += 0.5
                assert part.is_due()
                part.append([record("1")])
                fs.failures["pipe_file"] = [DOWN] * is_refused
                part.save()
            assert not part.is_due()

    @pytest.mark.parametrize("fs", [Store(), FolderStore()])
    def test_they_go_when_the_output_is_complete(self, folder: Path, fs: Store) -> None:
        fs.objects = {f"{FOLDER}/a.jsonl": HEADER + line("1"), "bucket/day/other": b""}
        with self.open(fs, "sftp") as part:
            resume(part)
            part.probe()
            part.remove()
        assert fs.objects == {"bucket/day/other": b""}
        assert fs.called("rmdir") == [FOLDER] * isinstance(fs, FolderStore)
        assert list(folder.iterdir()) == []

    @pytest.mark.parametrize(
        ("method", "errors", "is_warned"),
        [
            ("ls", [REFUSED], False),  # without permission to list, a part deletes its own
            *(("rm_file", [REFUSED], True), ("rmdir", [REFUSED], True), ("ls", [DOWN] * 6, True)),
        ],
    )
    def test_those_that_stay_are_a_warning(
        self, caplog: pytest.LogCaptureFixture, method: str, errors: list[BaseException | None], is_warned: bool
    ) -> None:
        fs = FolderStore()
        with self.open(fs, "sftp") as part:
            part.probe()
            fs.failures[method] = errors
            part.remove()
        if is_warned:
            assert "is complete, but its part objects could not be deleted." in caplog.messages[-1]
            assert caplog.messages[-1].endswith(f"Delete the folder sftp://conn@{FOLDER} yourself")
        else:
            assert (fs.objects, caplog.messages) == ({}, [])

    @pytest.mark.parametrize("is_refused", [False, True])
    def test_the_local_part_stays_only_if_the_store_lacks_records(
        self, folder: Path, is_refused: bool, caplog: pytest.LogCaptureFixture
    ) -> None:
        fs = Store()
        with self.open(fs) as part:
            part.append([record("1")])
            fs.failures["pipe_file"] = [DOWN] * is_refused
            part.save()
            assert (f"The records are kept in {part.path} on" in caplog.text) is is_refused
            part.close()
            assert [path.suffix for path in folder.iterdir()] == [".part"] * is_refused
        assert open_files(folder) == []
