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

READ: list[tuple[str, bytes, str | None, list[str]]] = [
    ("ids.txt", b"\xef\xbb\xbf4193366853543393\r\n\n  0007 \n8", None, ["4193366853543393", "7", "8"]),
    ("sent.csv.gz", gzip.compress(b'day,id\n1,11\n"2\n",12\n3,\n'), "id", ["11", "12"]),
    ("sent.jsonl", b'{"id": "11", "day": 1}\n\n{"id": 12}\n{"id": null}\n', "id", ["11", "12"]),
    ("sent.jsonl.gz", gzip.compress(b'{"id": "11"}\n'), "id", ["11"]),
    # a row without the column is skipped like an empty line
    ("sent.csv", b"\xef\xbb\xbfday,id,text\n1,11,a\n2\n\n3, ,b\n4,0012\n", "id", ["11", "12"]),
    ("sent.csv", b"day,id,text\n1,11,a\n2\n\n3, ,b\n4,0012\n", "day", ["1", "2", "3", "4"]),
    ("sent.csv", b"x,id,x\n1,2,3\n", "id", ["2"]),  # a column that nobody uses may stand there twice
    # the header line tells the separator
    ("sent.csv", b"\xef\xbb\xbfday;id\r\n1;11\r\n2;12\r\n", "id", ["11", "12"]),
    ("sent.csv", b"day\tid\n1,5\t11\n", "id", ["11"]),
    ("sent.csv", b'"day";"id"\n"1;2";"11"\n', "id", ["11"]),
    ("sent.csv", b'"day, of\nweek";id\n1;11\n', "id", ["11"]),
    ("sent.csv", b"sep=,\r\nday,id\r\n1,11\r\n", "id", ["11"]),
    ("sent.csv", b'"sep=|"\r\nday|id\r\n1|11\r\n', "id", ["11"]),
    ("sent.csv", b"SEP=;;\nday;id\n1;11\n", "id", ["11"]),
    ("sent.csv", b"sep=\t\r\nday\tid\r\n1\t11\r\n", "id", ["11"]),
    ("sent.csv", b"Day, ID \n1,11\n", "id", ["11"]),
    ("sent.csv", b"day,id,ID\n1,11,12\n", "id", ["11"]),
    ("sent.csv", b"x;y,id\n1,11\n", "id", ["11"]),
    ("sent.csv", b"id;day\n11\n", "id;day", ["11"]),
    ("sent.csv", b"id\n11\n", "id", ["11"]),
]


def read(folder: Path, name: str, content: bytes, column: str | None = None, csv: CsvFormat | None = None) -> list[str]:
    """Write a file and read its ids."""
    (folder / name).write_bytes(content)
    return list(read_id_file(str(folder / name), column, csv or CsvFormat()))


@pytest.mark.parametrize(("name", "content", "column", "ids"), READ)
def test_ids_are_read(tmp_path: Path, name: str, content: bytes, column: str | None, ids: list[str]) -> None:
    assert read(tmp_path, name, content, column) == ids


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
    tmp_path: Path, csv: CsvFormat, content: bytes, column: str | None
) -> None:
    assert read(tmp_path, "sent.csv", content, column and "id", csv) == ["11"]
    if column == "día":
        rows = tables.read_table_file(tmp_path / "sent.csv", "--rows", lambda _: {"día": "text"}, csv)
        assert [row.values.get_secret_value() for row in rows] == [{"día": "€"}]


CP1252, UTF16 = CsvFormat(None, "cp1252"), CsvFormat(None, "utf-16")
FLOAT = r"^line 2 of sent.csv .*float.*dtype=str"
REFUSED: list[tuple[str, bytes, str | None, str]] = [
    # a broken quote swallows no lines
    ("sent.csv", b'id,day\n11,"a"\n12,"b\n13,c\n14,d\n', "id", r"^sent\.csv .*line 3\b"),
    ("sent.csv", b'id,day\n"11,a\n12,b\n"13,c\n', "id", r"^sent\.csv .*line 2\b"),
    ("sent.csv", b'id,day\n11,a\n"1"2,b\n', "id", r"^sent\.csv .*line 3\b"),
    # the line of a malformed id
    ("ids.csv", b"1\n\n12a\n", None, r"^line 3 of ids\.csv is "),
    ("ids.csv", b"1\r\n2\r\n-3\r\n", None, r"^line 3 of ids\.csv is "),
    ("ids.csv", b"id\nx\n", "id", r"^line 2 of ids\.csv is "),
    ("ids.csv", b'day,id\n"1\n1",7\n2,x\n', "id", r"^line 4 of ids\.csv is "),
    ("ids.csv", b"1\n1.5e9\n", None, r"^line 2 of ids\.csv is "),
    ("sent.csv", b"sep=;\nday;id\n1;11\n2;x\n", "id", r"^line 4 of sent\.csv is "),
    *(("sent.csv", f"a;id\n=1+1;{one}\n".encode(), "id", FLOAT) for one in ("4193366853543394.0", "4.19e+15")),
    *(("sent.csv", f"a;id\n=1+1;{one}\n".encode(), "id", FLOAT) for one in ("4193366853543394,0", "4,19337E+15")),
    # JSON lines
    ("sent.jsonl", b'{"id": 7}\n{"day": 1}\n', "id", r"^line 2 .*has no key 'id' \(submission_ids_column\)\.$"),
    ("sent.jsonl", b'{"id": 7}\n11\n', "id", "^line 2 .*is a value of type int where an object was expected"),
    ("sent.jsonl", b'{"id": 7}\n{\n', "id", "^line 2 .*is not JSON"),
    ("sent.jsonl", b'{"id": 7}\n{"id": 1, "id": 2}\n', "id", "^line 2 .*has the key 'id' more than once"),
    ("sent.jsonl", b'{"id": 1.5}\n', "id", "^line 1 of sent.jsonl is a value of type Decimal: use a decimal string"),
    # a header that can be read in two ways
    ("sent.csv", b"id,a;id\n1,2;3\n", "id", "^sent.csv can be read with more than one separator.* csv_delimiter"),
    ("sent.csv", b"ID,Id\n1,2\n", "id", "^sent.csv has more than one column 'id'.* Rename"),
    ("sent.csv", b"id;id\n1;2\n", "id", "^sent.csv has more than one column 'id'.* Rename or remove"),
    ("sent.csv", b"sep=;\nday,id\n1,2\n", "id", "^sent.csv has no column 'id' .*set csv_delimiter"),
    ("sent.csv", b'"id\n1\n', "id", "^sent.csv is not a valid CSV: .* begins on line 1"),
    # another kind of file
    ("ids.csv", gzip.compress(b"1\n", mtime=0), None, "is a gzip file. Let its name end in .gz"),
    ("ids.csv", bz2.compress(b"1\n"), None, "is a bzip2 file. Unpack it"),
    ("ids.csv", lzma.compress(b"1\n"), None, "is an xz file. Unpack it"),
    ("ids.csv", b"\x28\xb5\x2f\xfd\x04\x00\x11\x00\x00\x31\x0a\xc4", "id", "is a zstd file. Unpack it"),
    ("ids.csv", b"PK\x03\x04\xff\xfe", None, "is a zip or Excel file. Save it as text"),
    ("ids.csv", b"PK\x03\x04\xff\xfe", "id", "is a zip or Excel file. Save it as text"),
    ("ids.csv", b"PAR1\x15\xff", "id", r"ids\.csv \(submission_ids_path\) is a Parquet file. Save it as text"),
    ("ids.csv", b"1\n\xff\n", None, "is not UTF-8 text. Save it as UTF-8, or set csv_encoding"),
    ("ids.csv", "día,id\n".encode("cp1252"), "id", "is not UTF-8.*, or set csv_encoding"),
    ("ids.csv", "id\n".encode("utf-16"), "id", "is not UTF-8 text.*csv_encoding.*utf-16"),
    ("a.xlsx", b"PK\x03\x04id", "id", r"^submission_ids_path is a spreadsheet \(\.xlsx\)"),
    ("a.XLS", b"id\n1\n", None, r"^submission_ids_path is a spreadsheet \(\.XLS\).* as CSV"),
    ("a.ods", b"id\n1\n", "id", r"^submission_ids_path is a spreadsheet \(\.ods\).* as CSV"),
]


@pytest.mark.parametrize(("name", "content", "column", "problem"), REFUSED)
def test_what_cannot_be_read_is_refused_with_its_place_and_the_remedy(
    tmp_path: Path, name: str, content: bytes, column: str | None, problem: str
) -> None:
    with pytest.raises(RtiSmsInputError, match=problem) as caught:
        read(tmp_path, name, content, column)
    assert "4193366853543394" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "content", "column", "csv", "problem"),
    [
        ("a.csv", b"sep=;\nid;x\n", "id", CsvFormat(","), "csv_delimiter is another .*first line"),
        ("a.csv", b"id\n", None, CsvFormat(";"), "csv_delimiter .*submission_ids_column"),
        ("a.jsonl", b"{}\n", "id", CP1252, "are for CSV files: leave them out"),
        ("a.csv", b"id\n\x81\n", "id", CP1252, "is not cp1252 text. Correct csv_encoding"),
        ("a.csv", b"id\n1\n", "id", UTF16, "is not utf-16 text. Correct csv_encoding"),
        ("a.csv", b"PK\x03\x04id", "id", CP1252, "zip or Excel file"),
    ],
)
def test_a_format_that_does_not_fit_the_file_is_refused(
    tmp_path: Path, name: str, content: bytes, column: str | None, csv: CsvFormat, problem: str
) -> None:
    with pytest.raises(RtiSmsInputError, match=problem):
        read(tmp_path, name, content, column, csv)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("csv_delimiter", one) for one in ("", ";;", "\n", "\r", '"', "a", "1", "\0", 5, "\\t")),
        *(("csv_encoding", one) for one in ("", "no-such", "base64", "rot13", 5, "utf-8\0")),
    ],
)
def test_what_is_no_delimiter_or_encoding_is_refused(name: str, value: Any) -> None:
    with pytest.raises(RtiSmsInputError, match=rf"^{name} is .*: use (one character|the name of an encoding)"):
        CsvFormat(**{name.removeprefix("csv_"): value})


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
def test_a_header_that_is_none_is_pointed_out(tmp_path: Path, header: str, hint: str) -> None:
    with pytest.raises(RtiSmsInputError) as caught:
        read(tmp_path, "sent.csv", f"{header}\n1,2\n".encode(), "submission")
    assert str(caught.value) == (  # nothing that may be data is repeated
        f"sent.csv has no column 'submission' (submission_ids_column). The first line has {hint}"
    )


def test_a_line_without_end_does_not_fill_the_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tables, "MAX_LINE", 200)
    path = tmp_path / "ids.txt"
    path.write_bytes(b" " * 10**6 + b"7")
    pieces = list(tables.read_lines(path.open("r")))
    assert max(len(piece) for _, piece in pieces) == 200
    assert list(read_id_file(path)) == ["7"]


def test_it_is_closed_when_it_is_read_and_when_reading_ends_early(tmp_path: Path) -> None:
    path = tmp_path / "ids.txt.gz"
    path.write_bytes(gzip.compress(b"1\n2\n"))
    list(read_id_file(path))
    ids = read_id_file(path)
    next(ids)
    ids.close()  # type: ignore[attr-defined]
    assert open_files(tmp_path) == []


@pytest.mark.parametrize(
    "damage",
    [
        pytest.param(lambda packed: packed[: len(packed) // 2], id="truncated"),
        pytest.param(lambda packed: b"\x1f\x8b" + packed, id="bad header"),
        pytest.param(lambda packed: packed[:50] + b"\xff" * 50 + packed[100:], id="bad data"),
        pytest.param(lambda packed: packed[:-8] + bytes(8), id="bad checksum"),
        pytest.param(lambda packed: packed[:-4], id="end cut off"),
        pytest.param(lambda packed: packed[:5], id="header cut off"),
        pytest.param(lambda packed: b"", id="empty"),
        pytest.param(lambda packed: packed + b"1\n", id="more behind it"),
        pytest.param(lambda packed: b"4193366853543393\n", id="no gzip"),
    ],
)
def test_a_damaged_gz_is_not_retried(tmp_path: Path, damage: Callable[[bytes], bytes]) -> None:
    packed = damage(gzip.compress("\n".join(map(str, range(10_000))).encode()))
    what = r"\(submission_ids_path\) is a damaged gzip file .*Make it again"
    with pytest.raises(RtiSmsInputError, match=what) as caught:
        read(tmp_path, "ids.txt.gz", packed)
    assert "41" not in str(caught.value).removeprefix(str(tmp_path))


def test_a_missing_file_is_not_retried(tmp_path: Path, bucket: ObjectStoragePath) -> None:
    what = r"^Reading /.*/ids\.txt \(submission_ids_path\) failed .*the path"
    with pytest.raises(RtiSmsStorageError, match=what):
        list(read_id_file(tmp_path / "ids.txt"))
    with pytest.raises(RtiSmsStorageError, match=r"Reading memory:.*ids\.txt .*FileNotFoundError"):
        list(read_id_file(bucket / "ids.txt"))


def test_a_failure_while_it_is_read_is_explained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise ConnectionResetError(104, "Connection reset by peer")

    monkeypatch.setattr(tables, "read_lines", fail)
    with pytest.raises(RtiSmsStorageUnavailableError, match=r"^Reading /.*/ids\.txt \(submission_ids_path\) failed"):
        read(tmp_path, "ids.txt", b"")


class TestInAStore:
    @pytest.fixture
    def ids(self, bucket: ObjectStoragePath) -> ObjectStoragePath:
        file = bucket / "ids.txt"
        file.fs.pipe_file(file.path, "\n".join(seeded(100)).encode())
        return file

    @pytest.mark.parametrize("size", [1, 16, 17, 1699, 1700, 10_000])
    def test_pieces_of_any_size_make_the_file(
        self, ids: ObjectStoragePath, size: int, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(store, "PIECE_SIZE", size)
        assert list(read_id_file(ids)) == seeded(100)

    def test_a_file_system_that_knows_no_size_is_read_at_once(
        self, ids: ObjectStoragePath, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        known = type(ids.fs).info
        unknown = {"size": None}
        monkeypatch.setattr(type(ids.fs), "info", lambda *args, **options: {**known(*args, **options), **unknown})
        assert list(read_id_file(ids)) == seeded(100)

    def test_an_empty_file_has_no_ids(self, ids: ObjectStoragePath) -> None:
        ids.fs.pipe_file(ids.path, b"")
        assert list(read_id_file(ids)) == []
