"""The part file: what survives a kill, what damage does, and who may read it."""

from __future__ import annotations

import fcntl
import json
import os
import stat
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from airflow_provider_rtisms.api.errors import RtiSmsNotFoundError, RtiSmsTransientError
from airflow_provider_rtisms.api.models import SmsDetails
from airflow_provider_rtisms.bulk import part as part_module
from airflow_provider_rtisms.bulk.distinct_ids import DistinctIds
from airflow_provider_rtisms.bulk.part import HEADER, PartFile
from airflow_provider_rtisms.bulk.records import stamp
from airflow_provider_rtisms.bulk.storage_errors import RtiSmsStorageError, RtiSmsStorageUnavailableError
from airflow_provider_rtisms.hooks.rtisms import RtiSmsHook
from airflow_provider_rtisms.sandbox import Sandbox
from tests.unit.bulk.conftest import count_descriptors, seeded

pytestmark = pytest.mark.outer_minors


def line(submission_id: str = "1", **changes: Any) -> bytes:
    """Return a record as a part file holds it."""
    record = SmsDetails(submission_id).to_record()
    stamp([record], datetime(2026, 1, 1, tzinfo=UTC))
    return json.dumps(record | changes).encode() + b"\n"


def resumed(path: Path) -> list[str]:
    """Return the ids that a part file gives back, each once."""
    with DistinctIds(["1", "2", "3"]) as ids, PartFile(path) as part:
        part.resume(lambda record: ids.discard(record["submission_id"]))
        return sorted({"1", "2", "3"} - set(ids))


DAMAGE = {
    "cut off": line("2")[:-20],
    "no JSON": b"junk\n",
    "no object": b"[]\n",
    "repeated": line("1"),
    "missing field": b'{"submission_id": "2"}\n',
    "field of another version": line("2", shoe_size=43),
    "status is a list": line("2", status=[]),
    "is_final is a word": line("2", is_final="true"),
    "cost is a boolean": line("2", cost=True),
    "cost is huge": line("2").replace(b'"cost": null', b'"cost": 1' + b"0" * 400),
    "cost has too many digits for Python": line("2").replace(b'"cost": null', b'"cost": 1' + b"0" * 9000),
    "cost is NaN": line("2", cost=float("nan")),
    "time is no time": line("2", sent_at="yesterday"),
    "time without offset": line("2", sent_at="2026-01-01T00:00:00"),
    "lone surrogate": line("2", operator_name="\ud800"),
    "deeply nested": b"[" * 100_000 + b"\n",
    "not UTF-8": line("2")[:-3] + b"\xff\n",
    "no id": line("2").replace(b'"2"', b"null"),
    "empty id": line(""),
    "time of the fetch is missing": line("2", fetched_at=None),
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
        path = tmp_path / "part"
        separator = b"" if damage.endswith(b"\n") else b"\n"
        path.write_bytes(HEADER + line("1") + damage + separator + line("3"))
        assert resumed(path) == ["1", "3"]
        assert path.read_bytes() == HEADER + line("1") + line("3")
        assert ("damaged lines were removed" in caplog.text) is (damage != line("1"))
        path.write_bytes(HEADER + line("1") + damage)
        assert resumed(path) == ["1"]
        assert path.read_bytes() == HEADER + line("1")

    def test_an_intact_part_is_left_as_it_is(self, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
        content = HEADER + line("1") + line("2")
        (tmp_path / "part").write_bytes(content)
        assert resumed(tmp_path / "part") == ["1", "2"]
        assert (tmp_path / "part").read_bytes() == content
        assert caplog.messages == []

    def test_a_long_piece_of_damage_costs_nothing_that_follows_it(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(part_module, "MAX_LINE", 1000)
        monkeypatch.setattr(part_module, "_READ_SIZE", 1)
        (tmp_path / "part").write_bytes(HEADER + line("1") + bytes(1001) + line("2") + line("3"))
        assert resumed(tmp_path / "part") == ["1", "2", "3"]
        assert (tmp_path / "part").read_bytes() == HEADER + line("1") + line("2") + line("3")

    def test_a_record_that_was_not_accepted_leaves_no_gap(self, tmp_path: Path) -> None:
        with PartFile(tmp_path / "part") as part:
            part.append([json.loads(line(one)) for one in "9182"])
            part.resume(lambda record: record["submission_id"] in "12")
            assert b"".join(part.lines()) == line("1") + line("2")
            part.append([json.loads(line("3"))])
        assert (tmp_path / "part").read_bytes() == HEADER + line("1") + line("2") + line("3")

    def test_a_record_without_its_end_of_line_is_lost(self, tmp_path: Path) -> None:
        (tmp_path / "part").write_bytes(HEADER + line("1") + line("2")[:-1])
        assert resumed(tmp_path / "part") == ["1"]

    @pytest.mark.parametrize("content", [line("1"), b"x", HEADER[:20], HEADER.replace(b"1", b"2", 1) + line("1")])
    def test_a_part_of_another_version_is_replaced(
        self, tmp_path: Path, content: bytes, caplog: pytest.LogCaptureFixture
    ) -> None:
        path, other, before = tmp_path / "part", tmp_path / "hard link", count_descriptors()
        path.write_bytes(content)
        other.hardlink_to(path)
        assert resumed(path) == []
        assert path.read_bytes() == HEADER
        assert other.read_bytes() == content
        assert "another version" in caplog.text
        assert count_descriptors() == before

    def test_the_header_stays_the_same_so_that_later_versions_go_on_from_it(self) -> None:
        assert HEADER == (
            b'{"rtisms_part": 1, "columns": ["submission_id", "status", "status_code", "is_final", "registered_at", '
            b'"sent_at", "done_at", "cost", "operator_id", "operator_name", "operator_mcc", "operator_mnc", '
            b'"fetched_at"]}\n'
        )

    def test_the_header_of_a_run_names_it_by_a_digest(self, tmp_path: Path) -> None:
        with PartFile(tmp_path / "part", run="nightly\nscheduled__2026-01-01") as part:
            assert part.path.read_bytes() == HEADER[:-2] + b', "run": "95ca92af51f60997"}\n'

    def test_a_fetch_goes_on_after_damage(self, hook: RtiSmsHook, sandbox: Sandbox, tmp_path: Path) -> None:
        target, ids = tmp_path / "details.jsonl", seeded(10)
        with pytest.raises(RtiSmsNotFoundError):
            hook.bulk_get_sms([*ids, "1"], output_path=target)
        (part,) = tmp_path.iterdir()
        lines = part.read_bytes().splitlines(keepends=True)
        lines[3] = lines[3][:30] + b"\n"
        part.write_bytes(b"".join(lines))
        summary: Any = hook.bulk_get_sms([*ids, "1"], output_path=target, on_missing="skip")
        assert (summary["fetched"], summary["resumed"], summary["missing"]) == (10, 9, 1)
        assert sorted(json.loads(one)["submission_id"] for one in target.read_text().splitlines()) == ids


def test_it_is_for_one_process_at_a_time(tmp_path: Path) -> None:
    path = tmp_path / "part"
    with PartFile(path), pytest.raises(RtiSmsTransientError, match="Another process"):
        PartFile(path)


def _remove(path: Path) -> None:
    path.unlink()


def _replace(path: Path) -> None:
    path.unlink()
    path.touch()


def _move_and_link(path: Path) -> None:
    path.rename(path.with_suffix(".moved"))
    path.symlink_to(path.with_suffix(".moved"))


@pytest.mark.parametrize("change", [_remove, _replace, _move_and_link])
def test_a_part_that_another_process_has_just_finished_is_not_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: Callable[[Path], None]
) -> None:
    path, before = tmp_path / "part", count_descriptors()
    monkeypatch.setattr(part_module.fcntl, "flock", lambda *_: change(path))
    with pytest.raises(RtiSmsTransientError, match="Another process is fetching the same submissions into"):
        PartFile(path)
    assert count_descriptors() == before


@pytest.mark.parametrize("step", ["flock", "fstat", "pread"])
def test_an_interrupt_while_it_opens_leaves_no_lock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str) -> None:
    path, before = tmp_path / "part", count_descriptors()
    path.write_bytes(HEADER)

    def interrupt(*_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        if step == "fstat":  # which is called by open_private first
            patch.setattr(os.path, "samestat", interrupt)
        else:
            patch.setattr(fcntl if step == "flock" else os, step, interrupt)
        with pytest.raises(KeyboardInterrupt):
            PartFile(path)
    assert count_descriptors() == before
    PartFile(path).close()


def test_its_folder_is_made_and_it_can_be_closed_twice(tmp_path: Path) -> None:
    part = PartFile(tmp_path / "a" / "b" / "part")
    part.close()
    part.close()
    os.fstat(0)  # no other descriptor was closed in its place
    PartFile(part.path).close()


def test_a_file_that_takes_the_name_of_a_replaced_part_is_not_opened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, unlink = tmp_path / "part", Path.unlink
    path.write_bytes(b"another version")

    def unlink_and_lose_the_race(path: Path) -> None:
        unlink(path)
        path.write_bytes(b"theirs")

    monkeypatch.setattr(Path, "unlink", unlink_and_lose_the_race)
    with pytest.raises(RtiSmsStorageError, match="FileExistsError"):
        PartFile(path)
    assert path.read_bytes() == b"theirs"


def test_pieces_hold_whole_lines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(part_module, "_READ_SIZE", 7)
    with PartFile(tmp_path / "part") as part:
        part.append([json.loads(line(str(number))) for number in range(9)])
        offset = len(HEADER) + len(line())
        pieces = list(part.pieces(offset, 3 * len(line()) - 1))
        assert [piece.count(b"\n") for piece in pieces] == [2, 2, 2, 2]
        assert HEADER + line("0") + b"".join(pieces) == part.path.read_bytes()
        assert list(part.pieces(offset, 1)) == list(part.lines())[1:]
        assert [piece.count(b"\n") for piece in part.pieces(0, 3 * len(line()))] == [3, 3, 3]


def test_a_full_disk_leaves_whole_lines(tmp_path: Path) -> None:
    resource = pytest.importorskip("resource")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    with PartFile(tmp_path / "part") as part:
        part.append([json.loads(line("1"))])
        resource.setrlimit(resource.RLIMIT_FSIZE, (part.size + 10, hard))
        try:
            with pytest.raises(RtiSmsStorageUnavailableError, match="File too large"):
                part.append([json.loads(line("2"))])
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        assert part.path.stat().st_size == part.size
        part.append([json.loads(line("3"))])
    assert resumed(tmp_path / "part") == ["1", "3"]


@pytest.fixture
def open_umask() -> Iterator[None]:
    """Let new files be read by everyone."""
    before = os.umask(0o022)
    yield
    os.umask(before)


@pytest.mark.usefixtures("open_umask")
class TestWhoMayRead:
    def test_the_part_is_private_and_the_file_follows_the_umask(self, hook: RtiSmsHook, tmp_path: Path) -> None:
        target = tmp_path / "details.jsonl"
        ids, modes = [*seeded(3), "1"], {}
        with pytest.raises(RtiSmsNotFoundError):
            hook.bulk_get_sms(ids, output_path=target)
        (part,) = tmp_path.iterdir()
        modes["part"] = stat.S_IMODE(part.stat().st_mode)
        part.chmod(0o644)
        hook.bulk_get_sms(ids, output_path=target, on_missing="skip")
        modes["file"] = stat.S_IMODE(target.stat().st_mode)
        assert modes == {"part": 0o600, "file": 0o644}

    @pytest.mark.parametrize("suffix", ["part", "staging"])
    def test_a_symbolic_link_is_not_followed(self, hook: RtiSmsHook, tmp_path: Path, suffix: str) -> None:
        precious = tmp_path / "precious"
        precious.write_bytes(b"mine")
        folder = tmp_path / "out"
        with pytest.raises(RtiSmsNotFoundError):
            hook.bulk_get_sms(["1"], output_path=folder / "details.jsonl")
        (part,) = folder.iterdir()
        link = part.with_suffix(f".{suffix}")
        link.unlink(missing_ok=True)
        link.symlink_to(precious)
        if suffix == "part":
            with pytest.raises(RtiSmsStorageError, match=r"\.part is a symbolic link"):
                hook.bulk_get_sms(["1"], output_path=folder / "details.jsonl", on_missing="skip")
        else:
            hook.bulk_get_sms(["1"], output_path=folder / "details.jsonl", on_missing="skip")
        assert precious.read_bytes() == b"mine"

    def test_a_pipe_is_refused_at_once(self, tmp_path: Path) -> None:
        os.mkfifo(tmp_path / "part")
        with pytest.raises(RtiSmsStorageError, match="not a regular file"):
            PartFile(tmp_path / "part")


def test_a_part_that_cannot_be_removed_is_a_warning(
    hook: RtiSmsHook, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    unlink = Path.unlink

    def refuse(path: Path, missing_ok: bool = False) -> None:
        if path.suffix == ".part":
            raise PermissionError(1, "Operation not permitted")
        unlink(path, missing_ok)

    monkeypatch.setattr(Path, "unlink", refuse)
    target = tmp_path / "details.jsonl"
    hook.bulk_get_sms(seeded(3), output_path=target)
    assert len(target.read_bytes().splitlines()) == 3
    assert "could not be removed" in caplog.text
