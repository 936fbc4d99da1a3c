"""Local files: who may read them, and what is there when something fails."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import pytest

from airflow_provider_rtisms.bulk import local_files
from airflow_provider_rtisms.bulk.local_files import LocalOutput, open_private, private_folder, write_private
from airflow_provider_rtisms.bulk.storage_errors import RtiSmsStorageError, RtiSmsStorageUnavailableError
from tests.unit.bulk.conftest import count_descriptors

pytestmark = pytest.mark.outer_minors


@pytest.fixture(autouse=True)
def umask() -> Iterator[None]:
    """Let the group read new files, and nobody else."""
    before = os.umask(0o027)
    yield
    os.umask(before)


@pytest.fixture
def output(tmp_path: Path) -> LocalOutput:
    return LocalOutput(tmp_path / "new" / "details.csv", tmp_path / "new" / "details.csv.staging")


def mode_of(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


class TestOpenPrivate:
    def test_a_new_file_is_for_its_owner_and_for_reading_and_writing(self, tmp_path: Path) -> None:
        os.umask(0)
        descriptor = open_private(tmp_path / "part")
        os.write(descriptor, b"mine")
        assert os.pread(descriptor, 10, 0) == b"mine"
        assert mode_of(tmp_path / "part") == 0o600
        assert not os.get_inheritable(descriptor)
        os.close(descriptor)

    def test_an_old_file_is_continued_unless_it_has_to_be_new(self, tmp_path: Path) -> None:
        (tmp_path / "part").write_bytes(b"old")
        descriptor = open_private(tmp_path / "part")
        assert os.pread(descriptor, 10, 0) == b"old"
        os.close(descriptor)
        with pytest.raises(FileExistsError):
            open_private(tmp_path / "part", is_new=True)

    def test_what_is_no_regular_file_is_refused_and_closed(self, tmp_path: Path) -> None:
        (tmp_path / "link").symlink_to(tmp_path / "elsewhere")
        os.mkfifo(tmp_path / "pipe")
        before = count_descriptors()
        for name in ("link", "pipe"):
            with pytest.raises(RtiSmsStorageError, match=rf"/{name} is a symbolic link, or not a regular file\."):
                open_private(tmp_path / name)
        assert count_descriptors() == before
        assert not (tmp_path / "elsewhere").exists()

    def test_other_failures_keep_their_reason(self, tmp_path: Path) -> None:
        with pytest.raises(IsADirectoryError):
            open_private(tmp_path)


class TestLocalOutput:
    def test_the_probe_leaves_the_folder_and_nothing_in_it(self, output: LocalOutput, tmp_path: Path) -> None:
        before = count_descriptors()
        output.probe()
        output.probe()
        assert list((tmp_path / "new").iterdir()) == []
        assert count_descriptors() == before

    def test_the_probe_makes_all_folders(self, tmp_path: Path) -> None:
        LocalOutput(tmp_path / "a" / "b" / "x", tmp_path / "a" / "b" / "x.staging").probe()
        assert (tmp_path / "a" / "b").is_dir()

    def test_a_name_that_belongs_to_a_folder_is_refused(self, output: LocalOutput) -> None:
        output.path.mkdir(parents=True)
        with pytest.raises(RtiSmsStorageError, match=r"^Writing /.*/details\.csv failed \(IsADirectoryError: .*21\]"):
            output.probe()

    def test_nobody_else_may_read_it_until_it_has_its_name(self, output: LocalOutput, tmp_path: Path) -> None:
        output.probe()
        output.path.write_bytes(b"yesterday's")

        def fill(file: IO[bytes]) -> None:
            (staging,) = set(output.path.parent.iterdir()) - {output.path}
            assert mode_of(staging) == 0o600
            assert output.path.read_bytes() == b"yesterday's"
            file.write(b"today's")

        output.commit(fill)
        assert list(output.path.parent.iterdir()) == [output.path]
        assert output.path.read_bytes() == b"today's"
        assert mode_of(output.path) == 0o640

    @pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "No space left on device"), KeyboardInterrupt()])
    def test_a_failure_leaves_the_old_file_and_no_other(self, output: LocalOutput, error: BaseException) -> None:
        output.probe()
        output.path.write_bytes(b"yesterday's")

        def fill(file: IO[bytes]) -> None:
            file.write(b"half")
            raise error

        expected = RtiSmsStorageUnavailableError if isinstance(error, OSError) else KeyboardInterrupt
        with pytest.raises(expected):
            output.commit(fill)
        assert list(output.path.parent.iterdir()) == [output.path]
        assert output.path.read_bytes() == b"yesterday's"

    def test_a_failure_is_not_masked_by_a_staging_file_that_has_gone(self, output: LocalOutput) -> None:
        output.probe()

        def fill(_: IO[bytes]) -> None:
            Path(f"{output.path}.staging").unlink()
            raise OSError(errno.EIO, "Input/output error")

        with pytest.raises(RtiSmsStorageUnavailableError, match="Input/output error"):
            output.commit(fill)

    def test_the_staging_file_of_a_killed_attempt_is_replaced(self, output: LocalOutput) -> None:
        output.probe()
        Path(f"{output.path}.staging").write_bytes(b"more than the new file holds")
        output.commit(lambda file: file.write(b"new"))  # type: ignore[arg-type,return-value]
        assert output.path.read_bytes() == b"new"


def test_a_private_file_is_on_disk_before_it_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = []
    monkeypatch.setattr(os, "fsync", lambda descriptor: sizes.append(os.fstat(descriptor).st_size))
    mode = write_private(tmp_path / "x", lambda file: file.write(b"12345"))  # type: ignore[arg-type,return-value]
    assert sizes == [5]
    assert mode == 0o640
    assert mode_of(tmp_path / "x") == 0o600


class TestPrivateFolder:
    @pytest.fixture(autouse=True)
    def folder_for_temporary_files(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(local_files.tempfile, "tempdir", str(tmp_path))

    def test_it_is_the_same_for_each_call_and_only_for_this_user(self, tmp_path: Path) -> None:
        folder = private_folder()
        assert folder == private_folder() == tmp_path / f"rtisms-{os.geteuid()}"
        assert mode_of(folder) == 0o700

    @pytest.mark.parametrize("others", ["may enter", "may read", "own it", "made a link", "made a file"])
    def test_a_folder_that_others_prepared_is_not_used(
        self, tmp_path: Path, others: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        prepared = tmp_path / f"rtisms-{os.geteuid()}"
        if others.startswith("may"):
            prepared.mkdir()
            prepared.chmod(0o701 if others == "may enter" else 0o740)
        elif others == "own it":
            prepared.mkdir(mode=0o700)
            monkeypatch.setattr(os, "geteuid", _changing(os.geteuid()))
        elif others == "made a link":
            (tmp_path / "theirs").mkdir(mode=0o700)
            prepared.symlink_to(tmp_path / "theirs")
        else:
            prepared.touch(mode=0o600)
        folder = private_folder()
        assert folder != prepared
        assert folder.name.startswith("rtisms-")
        assert folder.parent == tmp_path
        assert mode_of(folder) == 0o700
        assert f"{prepared} belongs to another user, or others may enter it" in caplog.text


def _changing(user: int) -> object:
    """Return a user id for the name of the folder, and another one after that."""
    ids = iter([user])
    return lambda: next(ids, user + 1)
