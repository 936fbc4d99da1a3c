"""The formats of records, byte by byte, and which lines of a part file are records."""

from __future__ import annotations

import gzip
import io
import json
import random
import sys
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest

from airflow_provider_rtisms.api.errors import RtiSmsConfigError, RtiSmsInputError
from airflow_provider_rtisms.api.models import Operator, SmsDetails
from airflow_provider_rtisms.bulk import store as formats
from airflow_provider_rtisms.bulk.fetch import LineReader, parse_record, stamp
from airflow_provider_rtisms.bulk.store import COLUMNS, columns_of

pytestmark = pytest.mark.outer_minors

DETAILS = SmsDetails(
    submission_id="0071",
    status="DELIVERED",
    status_code="1",
    registered_at=datetime(2020, 9, 17, 14, 8, 3, tzinfo=UTC),
    sent_at=datetime(2020, 9, 17, 14, 8, 14, tzinfo=UTC),
    cost=1.5,
    operator=Operator("188", 'Entel, "Pcs" ñ', "730", "01"),
)


def record(details: SmsDetails = DETAILS, **changes: Any) -> dict[str, Any]:
    """Return a record as a part file holds it."""
    made = details.to_record()
    stamp([made], datetime(2026, 1, 2, 3, 4, 5, 678901, tzinfo=UTC))
    return made | changes


def line(*args: Any, **changes: Any) -> bytes:
    return json.dumps(record(*args, **changes)).encode() + b"\n"


def converted(name: str, *lines: bytes) -> bytes:
    target = io.BytesIO()
    formats.converter(name)(lines, target)
    return target.getvalue()


def test_csv_has_a_header_quotes_where_needed_and_words_of_json() -> None:
    assert converted("x.csv", line(), line(SmsDetails("2", "EXPIRED"))).decode() == (
        "submission_id,status,status_code,is_final,registered_at,sent_at,done_at,cost,operator_id,operator_name,"
        "operator_mcc,operator_mnc,fetched_at\n"
        "0071,DELIVERED,1,true,2020-09-17T14:08:03+00:00,2020-09-17T14:08:14+00:00,,1.5,188,"
        '"Entel, ""Pcs"" ñ",730,01,2026-01-02T03:04:05+00:00\n'
        "2,EXPIRED,,true,,,,,,,,,2026-01-02T03:04:05+00:00\n"
    )


def test_jsonl_is_the_lines_as_they_are() -> None:
    assert converted("x.jsonl", line(), line(SmsDetails("2"))) == line() + line(SmsDetails("2"))


@pytest.mark.parametrize("name", ["x.jsonl", "x.csv"])
def test_gz_packs_the_same_bytes_and_equal_records_make_equal_files(name: str) -> None:
    packed = converted(f"{name}.gz", line())
    assert gzip.decompress(packed) == converted(name, line())
    assert packed[3] == 0  # no flags: neither name nor comment
    assert packed[4:8] == bytes(4)  # no time


def test_parquet_has_types_and_groups_of_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    monkeypatch.setattr(formats, "ROW_GROUP", 2)
    file = parquet.ParquetFile(io.BytesIO(converted("x.parquet", line(), *[line(SmsDetails("2"))] * 4)))
    assert [file.metadata.row_group(number).num_rows for number in range(file.num_row_groups)] == [2, 2, 1]
    types = dict(zip(file.schema_arrow.names, map(str, file.schema_arrow.types), strict=True))
    others = {"is_final": "bool", "cost": "double"}
    assert types == {
        name: others.get(name, "timestamp[ms, tz=UTC]" if name.endswith("_at") else "string") for name in COLUMNS
    }
    first, second, *_ = file.read().to_pylist()
    assert first == {
        **record(),
        "registered_at": DETAILS.registered_at,
        "sent_at": DETAILS.sent_at,
        "fetched_at": datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC),
    }
    assert second == dict.fromkeys(COLUMNS) | {
        "submission_id": "2",
        "is_final": False,
        "fetched_at": datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC),
    }


@pytest.mark.parametrize("name", ["details", "details.xls", "details.gz", "details.parquet.gz", ".csv"])
def test_another_suffix_is_refused_with_the_end_of_the_name(name: str) -> None:
    with pytest.raises(RtiSmsInputError, match=rf"^output_path ends in '{name}': use \.jsonl"):
        formats.converter(name)
    with pytest.raises(RtiSmsInputError, match=r"ends in 'x{17}\.md'"):
        formats.converter("x" * 300 + ".md")


def test_parquet_without_pyarrow_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(RtiSmsConfigError, match=r"pip install 'airflow-provider-rtisms\[parquet\]'"):
        formats.converter("x.parquet")
    formats.converter("x.csv")


def test_a_stamp_has_whole_seconds() -> None:
    assert record()["fetched_at"] == "2026-01-02T03:04:05+00:00"
    assert list(record()) == list(COLUMNS)


#: Has seen many lines, so that it knows their parts.
READER = LineReader()
OTHER_OFFSET = datetime(2026, 1, 1, tzinfo=timezone(timedelta(hours=-3))).isoformat()


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"operator_name": None, "sent_at": None, "cost": None},
        {"status": None, "is_final": False},
        {"status": "SENT", "is_final": False},
        {"status": "UNKNOWN", "is_final": True, "done_at": "2020-09-17T14:08:20+00:00"},
        {"status": "queued", "is_final": False},
        {"operator_name": ""},
        {"operator_name": r"\x1b[2J"},
        {"cost": -1},
        {"cost": 999_999_999_999_999},
    ],
)
def test_a_record_of_a_part_file_is_taken(changes: Any) -> None:
    assert parse_record(line(**changes)) == record(**changes)
    expected = record(**{"submission_id": "71", **changes})
    for _ in range(2):  # the second time, it looks like a line that was good
        found = READER.read(line(**{"submission_id": "71", **changes}))
        assert found is not None
        assert found[:2] == (71, expected["fetched_at"])
        for column in ("status", "is_final", "cost", "operator_name"):
            assert found[2][column] == expected[column]


REFUSED: dict[str, list[Any]] = {
    "submission_id": [None, "", 7, "x", "٤", "9" * 101],
    "status": ["", "Call me: +56900000000", 1, "SENT"],  # is_final is true
    "is_final": [False, None, 1],
    "cost": ["1", 1e15, -1e15, float("inf"), float("nan"), False, "1.5"],
    "operator_mcc": [730],
    "operator_name": ["\x1b[2J", "\x9b", "\u202e", "a\nb", "\udc80"],
    "operator_id": ["\x00"],
    "status_code": ["\x07"],
    "sent_at": [
        *(OTHER_OFFSET, "2020-09-17T14:08:14.500000+00:00", "2020-09-17 14:08:14+00:00", "1969-12-31T23:59:59+00:00"),
        *("0001-01-01T00:00:00+00:00", "20200917T140814Z", ["2020-09-17T14:08:14+00:00"], "", "2026-01-01", 1600351683),
    ],
    "done_at": [0],
    "fetched_at": ["2999-01-01T00:00:00+00:00", 1600351683, None, "2026-01-01T00:00:00"],
}


@pytest.mark.parametrize(("column", "value"), [(column, one) for column, values in REFUSED.items() for one in values])
def test_a_record_that_this_version_would_not_write_is_damage(column: str, value: Any) -> None:
    assert parse_record(line(**{column: value})) is None
    assert READER.read(line(submission_id="71")) is not None
    assert READER.read(line(**{"submission_id": "71", column: value})) is None


def test_lines_that_look_like_good_ones_are_checked_as_closely() -> None:
    """Pieces of good lines are put together at random, and bytes are changed, as a forger or a disk may do it."""
    chance, reader = random.Random(7), LineReader()
    moment = datetime(2020, 9, 17, 14, 8, 3, tzinfo=UTC)
    statuses = ("DELIVERED", "SENT", "REJECTED", "queued", None)
    networks = (Operator("188", "Entel Pcs", "730", "01"), Operator(None, 'a, "cost": 1', None, "1"), Operator())
    lines = [
        line(SmsDetails(one, status, code, moment, sent, done, cost, network))
        for one, code, cost in (("71", "1", 1), ("8", None, 0.5), ("0", "x, y", None))
        for status in statuses
        for sent in (moment, None)
        for done in (moment, None)
        for network in networks
    ]
    assert all(reader.read(one) for one in lines * 2)
    taken = refused = 0
    for _ in range(20_000):
        parts = [chance.choice(lines).split(b", ") for _ in range(2)]
        at = chance.randrange(len(parts[0]))
        changed = bytearray(b", ".join(parts[0][:at] + parts[1][at:]))
        if chance.random() < 0.5:
            changed[chance.randrange(len(changed))] = chance.choice(b'0129aT:,"{}\\ -+.\n')
        mixed = bytes(changed)
        expected = parse_record(mixed)
        if expected is not None and expected["submission_id"] != str(int(expected["submission_id"])):
            expected = None
        found = reader.read(mixed)
        assert (found is None) == (expected is None), mixed
        if found is not None and expected is not None:
            assert (str(found[0]), found[1]) == (expected["submission_id"], expected["fetched_at"])
            assert all(found[2][name] == expected[name] for name in ("status", "is_final", "cost", "operator_name"))
        taken, refused = taken + (found is not None), refused + (found is None)
    assert min(taken, refused) > 2000


@pytest.mark.parametrize(
    "text",
    [
        *(b"[]\n", b"7\n", b"null\n", b"\n", b"", b"{}\n", b"[" * 100_000 + b"\n", line()[:-1]),
        pytest.param(json.dumps(dict(reversed(record().items()))).encode() + b"\n", id="another order of columns"),
        # Written in another way, while a .jsonl file takes the lines as they are.
        pytest.param(line().replace(b'"status": "D', b'"status": "x y", "status": "D'), id="a key twice"),
        pytest.param(line().replace(b'", ', b'",  ', 1), id="a blank"),
        pytest.param(line().replace(b"1.5", b"1.50"), id="a zero"),
        pytest.param(line().replace(b"DELIVERED", rb"\u0044ELIVERED"), id="an escape"),
        pytest.param(line()[:-2] + b', "shoe_size": 43}\n', id="a field"),
        pytest.param(b"\xef\xbb\xbf" + line(), id="a mark"),
    ],
)
def test_a_line_that_is_no_record_of_ours_is_damage(text: bytes) -> None:
    assert parse_record(text) is None


@pytest.mark.parametrize(
    ("raw", "is_taken"),
    [
        ('{"id": 71, "info": {"status": {"status": "DELIVERED"}, "cost": 1.5}}', True),
        ('{"id": 71, "info": {"status": {"status": "SENT"}, "cost": 1.5}}', False),
        ('{"id": 72, "info": {"status": {"status": "DELIVERED"}, "cost": 1.5}}', False),
        ("{}", False),
        ("no JSON", False),
        ("[" * 100_000, False),
        (None, False),
        ({}, False),
    ],
)
def test_the_json_of_a_response_has_to_say_what_its_record_says(raw: Any, is_taken: bool) -> None:
    made = record(SmsDetails("71", "DELIVERED", cost=1.5)) | {"raw": raw}
    text = json.dumps(made).encode() + b"\n"
    assert parse_record(text, columns_of(True)) == (made if is_taken else None)
    assert parse_record(text) is None
