"""Files of submission ids: what is read, and how what cannot be read is explained."""

from __future__ import annotations

import bz2
import gzip
import lzma
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from airflow.providers.common.compat.sdk import ObjectStoragePath

from airflow_provider_rtisms import tables
from airflow_provider_rtisms.api.errors import RtiSmsInputError
from airflow_provider_rtisms.bulk import store
from airflow_provider_rtisms.bulk.store import RtiSmsStorageError, RtiSmsStorageUnavailableError
from airflow_provider_rtisms.tables import CsvFormat, read_id_file
from tests.unit.bulk.conftest import open_files, seeded


class TestIdFile:
    def test_one_id_per_line(self, tmp_path: Path) -> None:
        path = tmp_path / "ids.txt"
        path.write_bytes(b"\xef\xbb\xbf4193366853543393\r\n\n  0007 \n8")
        assert list(read_id_file(str(path))) == ["4193366853543393", "7", "8"]

    def test_column_of_a_packed_csv(self, tmp_path: Path) -> None:
        path = tmp_path / "sent.csv.gz"
        path.write_bytes(gzip.compress(b'day,id\n1,11\n"2\n",12\n3,\n'))
        assert list(read_id_file(path, "id")) == ["11", "12"]

    @pytest.mark.parametrize(
        ("rows", "line"),
        [
            ('11,"a"\n12,"b\n13,c\n14,d\n', 3),  # the quote of line 3 never ends
            ('"11,a\n12,b\n"13,c\n', 2),
            ('11,a\n"1"2,b\n', 3),
        ],
    )
    def test_a_broken_quote_is_refused_and_swallows_no_lines(self, tmp_path: Path, rows: str, line: int) -> None:
        path = tmp_path / "sent.csv"
        path.write_text(f"id,day\n{rows}")
        with pytest.raises(RtiSmsInputError, match=rf"^sent\.csv .*line {line}\b"):
            list(read_id_file(path, "id"))

    @pytest.mark.parametrize(
        ("content", "column", "line"),
        [
            (b"1\n\n12a\n", None, 3),
            (b"1\r\n2\r\n-3\r\n", None, 3),
            (b"id\nx\n", "id", 2),
            (b'day,id\n"1\n1",7\n2,x\n', "id", 4),
            (b"1\n1.5e9\n", None, 2),
        ],
    )
    def test_the_line_of_a_malformed_id_is_named(
        self, tmp_path: Path, content: bytes, column: str | None, line: int
    ) -> None:
        path = tmp_path / "ids.csv"
        path.write_bytes(content)
        with pytest.raises(RtiSmsInputError, match=rf"^line {line} of ids\.csv is "):
            list(read_id_file(path, column))

    @pytest.mark.parametrize("name", ["sent.jsonl", "sent.jsonl.gz"])
    def test_a_key_of_json_lines(self, tmp_path: Path, name: str) -> None:
        text = b'{"id": "11", "day": 1}\n\n{"id": 12}\n{"id": null}\n'
        path = tmp_path / name
        path.write_bytes(gzip.compress(text) if name.endswith(".gz") else text)
        assert list(read_id_file(path, "id")) == ["11", "12"]

    @pytest.mark.parametrize(
        ("line", "problem"),
        [
            ('{"day": 1}', r"has no key 'id' \(submission_ids_column\)\.$"),
            ("11", "is a value of type int where an object was expected"),
            ("{", "is not JSON"),
            ('{"id": 1, "id": 2}', "has the key 'id' more than once"),
            ('{"id": 1.5}', "of sent.jsonl is a value of type Decimal: use a decimal string"),
        ],
    )
    def test_json_lines_without_an_id_are_refused(self, tmp_path: Path, line: str, problem: str) -> None:
        (tmp_path / "sent.jsonl").write_text(f'{{"id": 7}}\n{line}\n')
        with pytest.raises(RtiSmsInputError, match=f"^line 2 .*{problem}"):
            list(read_id_file(tmp_path / "sent.jsonl", "id"))

    def test_a_row_without_the_column_is_skipped_like_an_empty_line(self, tmp_path: Path) -> None:
        path = tmp_path / "sent.csv"
        path.write_bytes(b"\xef\xbb\xbfday,id,text\n1,11,a\n2\n\n3, ,b\n4,0012\n")
        assert list(read_id_file(path, "id")) == ["11", "12"]
        assert list(read_id_file(path, "day")) == ["1", "2", "3", "4"]

    def test_a_line_without_end_does_not_fill_the_memory(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(tables, "MAX_LINE", 200)
        path = tmp_path / "ids.txt"
        path.write_bytes(b" " * 10**6 + b"7")
        pieces = list(tables.read_lines(path.open("r")))
        assert max(len(piece) for _, piece in pieces) == 200
        assert list(read_id_file(path)) == ["7"]

    @pytest.mark.parametrize(
        ("header", "hint"),
        [
            ("id|day", "1 column: id|day. Check the name, or set csv_delimiter."),
            ("id,day", "2 columns: id, day. Check the name, or set csv_delimiter."),
            ("id;day", "2 columns: id, day. Check the name, or set csv_delimiter."),
            ("id;Hola José. Tu cita es mañana a las 10", "2 columns. Check the name, or set csv_delimiter."),
            (" 41 ,x", "2 columns. The file seems to have no header line: add one."),
            ("4193366853543393,+56912345678", "2 columns. The file seems to have no header line: add one."),
            ("x,+569", "2 columns. The file seems to have no header line: add one."),
        ],
    )
    def test_a_header_that_is_none_is_pointed_out(self, tmp_path: Path, header: str, hint: str) -> None:
        path = tmp_path / "sent.csv"
        path.write_text(f"{header}\n1,2\n")
        with pytest.raises(RtiSmsInputError) as caught:
            list(read_id_file(path, "submission"))
        assert str(caught.value) == (  # nothing that may be data is repeated
            f"sent.csv has no column 'submission' (submission_ids_column). The first line has {hint}"
        )

    def test_a_column_that_stands_twice_is_refused(self, tmp_path: Path) -> None:
        path = tmp_path / "sent.csv"
        path.write_text("id,submission,id,submission\n1,2,3,4\n")
        with pytest.raises(
            RtiSmsInputError, match=r"^sent\.csv has more than one column 'submission' .*Rename or remove"
        ):
            list(read_id_file(path, "submission"))

    def test_a_column_that_nobody_uses_may_stand_there_twice(self, tmp_path: Path) -> None:
        path = tmp_path / "sent.csv"
        path.write_text("x,id,x\n1,2,3\n")
        assert list(read_id_file(path, "id")) == ["2"]

    @pytest.mark.parametrize(
        ("content", "column", "ids"),
        [
            (b"\xef\xbb\xbfday;id\r\n1;11\r\n2;12\r\n", "id", ["11", "12"]),
            (b"day\tid\n1,5\t11\n", "id", ["11"]),
            (b'"day";"id"\n"1;2";"11"\n', "id", ["11"]),
            (b'"day, of\nweek";id\n1;11\n', "id", ["11"]),
            (b"sep=,\r\nday,id\r\n1,11\r\n", "id", ["11"]),
            (b'"sep=|"\r\nday|id\r\n1|11\r\n', "id", ["11"]),
            (b"SEP=;;\nday;id\n1;11\n", "id", ["11"]),
            (b"sep=\t\r\nday\tid\r\n1\t11\r\n", "id", ["11"]),
            (b"Day, ID \n1,11\n", "id", ["11"]),
            (b"day,id,ID\n1,11,12\n", "id", ["11"]),
            (b"x;y,id\n1,11\n", "id", ["11"]),
            (b"id;day\n11\n", "id;day", ["11"]),
            (b"id\n11\n", "id", ["11"]),
        ],
    )
    def test_the_header_line_tells_how_a_csv_is_written(
        self, tmp_path: Path, content: bytes, column: str, ids: list[str]
    ) -> None:
        (tmp_path / "sent.csv").write_bytes(content)
        assert list(read_id_file(tmp_path / "sent.csv", column)) == ids

    @pytest.mark.parametrize(
        ("content", "problem"),
        [
            ("id,a;id\n1,2;3\n", "can be read with more than one separator.* csv_delimiter"),
            ("ID,Id\n1,2\n", "has more than one column 'id'.* Rename"),
            ("id;id\n1;2\n", "has more than one column 'id'.* Rename"),
            ("sep=;\nday,id\n1,2\n", "has no column 'id' .*set csv_delimiter"),
            ('"id\n1\n', "is not a valid CSV: .* begins on line 1"),
        ],
    )
    def test_a_header_that_can_be_read_in_two_ways_is_refused(self, tmp_path: Path, content: str, problem: str) -> None:
        (tmp_path / "sent.csv").write_text(content)
        with pytest.raises(RtiSmsInputError, match=f"^sent.csv {problem}"):
            list(read_id_file(tmp_path / "sent.csv", "id"))

    def test_lines_are_counted_with_the_line_that_names_the_separator(self, tmp_path: Path) -> None:
        (tmp_path / "sent.csv").write_text("sep=;\nday;id\n1;11\n2;x\n")
        with pytest.raises(RtiSmsInputError, match=r"^line 4 of sent\.csv is "):
            list(read_id_file(tmp_path / "sent.csv", "id"))

    @pytest.mark.parametrize(
        ("csv", "content", "column"),
        [
            (CsvFormat("|"), b"day|id\n1|11\n", "id"),
            (CsvFormat(";"), b"sep=;\nday;id\n1;11\n", "id"),
            (CsvFormat(";"), b"id,a;id\nx;11\n", "id"),
            (CsvFormat(None, "cp1252"), "día;id\n€;11\n".encode("cp1252"), "día"),
            (CsvFormat(None, "UTF-16"), "día\tid\r\n€\t11\r\n".encode("utf-16"), "día"),
            (CsvFormat(None, "utf-16"), b"\xfe\xff" + "día\tid\r\n€\t11\r\n".encode("utf-16-be"), "día"),
            (CsvFormat(None, "utf-16-le"), '\ufeff"día"\tid\r\n€\t11\r\n'.encode("utf-16-le"), "día"),
            (CsvFormat(None, "utf8"), "\ufeffdía,id\n€,11\n".encode(), "día"),
            (CsvFormat(None, "utf-16"), "11\n".encode("utf-16"), None),
        ],
    )
    def test_separator_and_encoding_may_be_given(
        self, tmp_path: Path, csv: CsvFormat, content: bytes, column: str | None
    ) -> None:
        (tmp_path / "sent.csv").write_bytes(content)
        if column == "día":
            rows = tables.read_table_file(tmp_path / "sent.csv", "--rows", lambda _: {"día": "text"}, csv)
            assert [row.values.get_secret_value() for row in rows] == [{"día": "€"}]
        if column is None or column == "id" or csv.encoding:
            assert list(read_id_file(tmp_path / "sent.csv", column and "id", csv)) == ["11"]

    @pytest.mark.parametrize(
        ("name", "content", "column", "csv", "problem"),
        [
            ("a.csv", b"sep=;\nid;x\n", "id", CsvFormat(","), "csv_delimiter is another .*first line"),
            ("a.csv", b"id\n", None, CsvFormat(";"), "csv_delimiter .*submission_ids_column"),
            ("a.jsonl", b"{}\n", "id", CsvFormat(None, "cp1252"), "are for CSV files: leave them out"),
            ("a.csv", b"id\n\x81\n", "id", CsvFormat(None, "cp1252"), "is not cp1252 text. Correct csv_encoding"),
            ("a.csv", b"id\n1\n", "id", CsvFormat(None, "utf-16"), "is not utf-16 text. Correct csv_encoding"),
            (
                "a.csv",
                "día,id\n".encode("cp1252"),
                "id",
                CsvFormat(),
                "not UTF-8.*, or set csv_encoding",
            ),
            ("a.csv", "id\n".encode("utf-16"), "id", CsvFormat(), "is not UTF-8 text.*csv_encoding.*utf-16"),
            ("a.csv", b"PK\x03\x04id", "id", CsvFormat(None, "cp1252"), "zip or Excel file"),
            (
                "a.xlsx",
                b"PK\x03\x04id",
                "id",
                CsvFormat(),
                r"^submission_ids_path is a spreadsheet \(\.xlsx\)",
            ),
            ("a.XLS", b"id\n1\n", None, CsvFormat(), r"^submission_ids_path is a spreadsheet \(\.XLS\).* as CSV"),
            ("a.ods", b"id\n1\n", "id", CsvFormat(), r"^submission_ids_path is a spreadsheet \(\.ods\).* as CSV"),
        ],
    )
    def test_another_kind_of_file_is_refused_with_the_remedy(
        self, tmp_path: Path, name: str, content: bytes, column: str | None, csv: CsvFormat, problem: str
    ) -> None:
        (tmp_path / name).write_bytes(content)
        with pytest.raises(RtiSmsInputError, match=problem):
            list(read_id_file(tmp_path / name, column, csv))

    @pytest.mark.parametrize("delimiter", ["", ";;", "\n", "\r", '"', "a", "1", "\0", 5, "\\t"])
    def test_a_delimiter_that_no_csv_has_is_refused(self, delimiter: Any) -> None:
        with pytest.raises(RtiSmsInputError, match=r"^csv_delimiter is .*: use one character"):
            CsvFormat(delimiter)

    @pytest.mark.parametrize("encoding", ["", "no-such", "base64", "rot13", 5, "utf-8\0"])
    def test_an_encoding_that_python_does_not_know_is_refused(self, encoding: Any) -> None:
        with pytest.raises(RtiSmsInputError, match=r"^csv_encoding is .*: use the name of an encoding"):
            CsvFormat(None, encoding)

    @pytest.mark.parametrize(
        "value", ["4193366853543393.0", "4.193366853543393e+15", "4,19337E+15", "4193366853543393,0"]
    )
    def test_an_id_that_a_program_made_float_is_refused_with_the_reason(self, tmp_path: Path, value: str) -> None:
        (tmp_path / "results.csv").write_text(f"reference;outcome;submission_id\n=1+1;submitted;{value}\nr2;refused;\n")
        with pytest.raises(RtiSmsInputError, match=r"^line 2 of results.csv .*float.*dtype=str") as caught:
            list(read_id_file(tmp_path / "results.csv", "submission_id"))
        assert value not in str(caught.value)

    def test_it_is_closed_when_it_is_read_and_when_reading_ends_early(self, tmp_path: Path) -> None:
        path = tmp_path / "ids.txt.gz"
        path.write_bytes(gzip.compress(b"1\n2\n"))
        list(read_id_file(path))
        ids = read_id_file(path)
        next(ids)
        ids.close()  # type: ignore[attr-defined]
        assert open_files(tmp_path) == []


class TestUnreadableIdFile:
    @pytest.mark.parametrize(
        "damage",
        [
            lambda packed: packed[: len(packed) // 2],
            lambda packed: b"\x1f\x8b" + packed,
            lambda packed: packed[:50] + b"\xff" * 50 + packed[100:],
            lambda packed: packed[:-8] + bytes(8),
            lambda packed: packed[:-4],
            lambda packed: packed[:5],
            lambda packed: b"",
            lambda packed: packed + b"1\n",
            lambda packed: b"4193366853543393\n",
        ],
        ids=[
            *("truncated", "bad header", "bad data", "bad checksum", "end cut off", "header cut off", "empty"),
            *("more behind it", "no gzip"),
        ],
    )
    def test_a_damaged_gz_is_not_retried(self, tmp_path: Path, damage: Callable[[bytes], bytes]) -> None:
        path = tmp_path / "ids.txt.gz"
        path.write_bytes(damage(gzip.compress("\n".join(map(str, range(10_000))).encode())))
        with pytest.raises(
            RtiSmsInputError, match=rf"^{path} \(submission_ids_path\) is a damaged gzip file .*Make it again"
        ) as caught:
            list(read_id_file(path))
        assert "41" not in str(caught.value).removeprefix(str(path))

    @pytest.mark.parametrize(
        ("content", "kind"),
        [
            (gzip.compress(b"1\n", mtime=0), "a gzip file. Let its name end in .gz"),
            (bz2.compress(b"1\n"), "a bzip2 file. Unpack it"),
            (lzma.compress(b"1\n"), "an xz file. Unpack it"),
            (b"\x28\xb5\x2f\xfd\x04\x00\x11\x00\x00\x31\x0a\xc4", "a zstd file. Unpack it"),
            (b"PK\x03\x04\xff\xfe", "a zip or Excel file. Save it as text"),
            (b"PAR1\x15\xff", "a Parquet file. Save it as text"),
            (b"1\n\xff\n", "not UTF-8 text. Save it as UTF-8, or set csv_encoding"),
        ],
        ids=["gz", "bz2", "xz", "zst", "zip", "parquet", "not UTF-8"],
    )
    def test_another_kind_of_file_is_named(self, tmp_path: Path, content: bytes, kind: str) -> None:
        (tmp_path / "ids.csv").write_bytes(content)
        for column in (None, "id"):
            with pytest.raises(RtiSmsInputError) as caught:
                list(read_id_file(tmp_path / "ids.csv", column))
            assert f"{tmp_path}/ids.csv (submission_ids_path) is {kind}" in str(caught.value)

    def test_a_missing_file_is_not_retried(self, tmp_path: Path) -> None:
        with pytest.raises(
            RtiSmsStorageError, match=r"^Reading /.*/ids\.txt \(submission_ids_path\) failed .*the path"
        ):
            list(read_id_file(tmp_path / "ids.txt"))

    def test_a_failure_while_it_is_read_is_explained(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        def fail(*_: object) -> None:
            raise ConnectionResetError(104, "Connection reset by peer")

        monkeypatch.setattr(tables, "read_lines", fail)
        (tmp_path / "ids.txt").touch()
        with pytest.raises(
            RtiSmsStorageUnavailableError, match=r"^Reading /.*/ids\.txt \(submission_ids_path\) failed"
        ):
            list(read_id_file(tmp_path / "ids.txt"))

    def test_a_file_that_vanishes_from_a_store_is_explained(self, bucket: ObjectStoragePath) -> None:
        with pytest.raises(RtiSmsStorageError, match=r"Reading memory:.*ids\.txt .*FileNotFoundError"):
            list(read_id_file(bucket / "ids.txt"))


@pytest.fixture
def ids(bucket: ObjectStoragePath) -> ObjectStoragePath:
    file = bucket / "ids.txt"
    file.fs.pipe_file(file.path, "\n".join(seeded(100)).encode())
    return file


@pytest.mark.parametrize("size", [1, 16, 17, 1699, 1700, 10_000])
def test_pieces_of_any_size_make_the_file(ids: ObjectStoragePath, size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store, "PIECE_SIZE", size)
    assert list(read_id_file(ids)) == seeded(100)


def test_a_file_system_that_knows_no_size_is_read_at_once(
    ids: ObjectStoragePath, monkeypatch: pytest.MonkeyPatch
) -> None:
    known = type(ids.fs).info

    def info(self: Any, path: str, **options: Any) -> dict[str, Any]:
        return {**known(self, path, **options), "size": None}

    monkeypatch.setattr(type(ids.fs), "info", info)
    assert list(read_id_file(ids)) == seeded(100)


def test_an_empty_file_has_no_ids(bucket: ObjectStoragePath) -> None:
    file = bucket / "empty.txt"
    file.fs.pipe_file(file.path, b"")
    assert list(read_id_file(file)) == []
