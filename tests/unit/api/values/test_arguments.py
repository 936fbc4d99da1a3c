"""Arguments as people and templates give them: choices, numbers, spans of time, amounts, ids and lists."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from decimal import Decimal
from fractions import Fraction
from typing import Any

import pytest

from airflow_provider_rtisms.api.errors import RtiSmsInputError
from airflow_provider_rtisms.api.values.arguments import (
    as_iterable,
    check_amount,
    check_choice,
    check_seconds,
    check_submission_id,
    check_whole_number,
    iter_submission_ids,
    name_some,
    parse_amount,
    parse_submission_ids,
)

MAX_ID_DIGITS = 100


@pytest.mark.parametrize(
    ("value", "shape"), [("Fail", "a str of 4 characters"), (None, "None"), (1, "a value of type int")]
)
def test_a_choice_is_one_of_the_named(value: Any, shape: str) -> None:
    choices = ("fail", "resend", "skip")
    assert [check_choice("on_uncertain", one, choices) for one in choices] == list(choices)
    with pytest.raises(RtiSmsInputError) as caught:
        check_choice("on_uncertain", value, choices)
    assert str(caught.value) == f"on_uncertain is {shape}: use 'fail', 'resend' or 'skip'."


def test_a_whole_number_has_bounds() -> None:
    assert [check_whole_number("n", one) for one in (1, 2, 10**30)] == [1, 2, 10**30]
    assert [check_whole_number("n", one, least=2, most=5) for one in (2, 5)] == [2, 5]
    for value in (0, -1, True, False, 1.0, "1", None, Decimal(1)):
        with pytest.raises(RtiSmsInputError, match=r"^n is .*: use a whole number, 1 or more\.$"):
            check_whole_number("n", value)
    for value in (1, 6):
        with pytest.raises(RtiSmsInputError, match=r"use a whole number, from 2 to 5\.$"):
            check_whole_number("n", value, least=2, most=5)


@pytest.mark.parametrize(
    ("value", "seconds"), [(0, 0.0), (1, 1.0), (0.5, 0.5), (timedelta(minutes=2), 120.0), (timedelta(0), 0.0)]
)
def test_seconds_and_spans_are_taken_as_a_float(value: Any, seconds: float) -> None:
    checked = check_seconds("timeout", value)
    assert (checked, type(checked)) == (seconds, float)


@pytest.mark.parametrize(
    "value", [-0.001, True, False, None, "60", float("nan"), float("inf"), timedelta(seconds=-1), Decimal(1), 10**400]
)
def test_what_is_no_span_of_time_is_refused(value: Any) -> None:
    with pytest.raises(RtiSmsInputError, match=r"^timeout is .*: use seconds, 0 or more, or a timedelta\.$"):
        check_seconds("timeout", value)


@pytest.mark.parametrize(
    ("value", "amount"),
    [("12.50", "12.50"), (" 7 ", "7"), (3, "3"), (0.1, "0.1"), (Decimal("1.10"), "1.10"), ("-5", "-5")],
)
def test_amounts_are_exact(value: Any, amount: str) -> None:
    assert str(parse_amount(value)) == str(check_amount("minimum", value)) == amount


@pytest.mark.parametrize(
    "value", ["", "12,50", "NaN", "Infinity", float("inf"), float("nan"), None, True, False, [], b"1", Fraction(1)]
)
def test_what_is_no_amount_is_refused(value: Any) -> None:
    with pytest.raises(ValueError, match=r"^not a decimal string$"):
        parse_amount(value)
    with pytest.raises(RtiSmsInputError, match=r"^minimum is .*: use a decimal string such as '12\.50'\.$"):
        check_amount("minimum", value)


class Integer:
    """An integer of another library, as numpy.int64 is one."""

    def __init__(self, value: int) -> None:
        self.value = value

    def __index__(self) -> int:
        return self.value


class bool_:  # noqa: N801  # the name of numpy's bool
    def __index__(self) -> int:
        return 1


class Row:
    """What looks like an integer, and is none: an array of two numbers."""

    def __index__(self) -> int:
        raise TypeError("only integer scalar arrays can be converted to a scalar index")

    def __iter__(self) -> Iterator[Integer]:
        return iter([Integer(1), Integer(2)])


class TestIds:
    @pytest.mark.parametrize(
        ("value", "checked"),
        [
            *((0, "0"), ("0", "0"), ("007", "7"), ("000", "0"), (10**MAX_ID_DIGITS - 1, "9" * 100)),
            *(("9" * MAX_ID_DIGITS, "9" * 100), (" 7\t", "7"), ("\r\n007\n", "7"), ("\u00a07\u3000", "7")),
            *((Decimal(0), "0"), (Decimal("7.000"), "7"), (Decimal("4193366853543393"), "4193366853543393")),
            (Decimal("4.193366853543393E+15"), "4193366853543393"),
            *((Decimal("9" * MAX_ID_DIGITS), "9" * 100), (Integer(7), "7")),
            (Integer(4193366853543393), "4193366853543393"),
        ],
    )
    def test_digits_are_taken(self, value: Any, checked: str) -> None:
        assert check_submission_id(value) == checked

    @pytest.mark.parametrize(
        "value",
        [
            *(-1, 10**MAX_ID_DIGITS, "9" * (MAX_ID_DIGITS + 1), "", " \n", "1 2", "1\n2", "\u200b1", "1a"),
            *("-1", "+1", "1.0", "٣", "²", True, 1.0, float("inf"), float("nan"), None, b"1", Decimal("1.5")),
            *(Decimal(-1), Decimal("Infinity"), Decimal("-Infinity"), Decimal("NaN"), Decimal("sNaN")),
            *(Decimal("1E+100"), Decimal("1E+999999"), Decimal("1E-999999"), Integer(-1)),
            *(Integer(10**MAX_ID_DIGITS), bool_(), Row()),
        ],
        ids=lambda value: repr(value)[:40],
    )
    def test_anything_else_is_refused(self, value: Any) -> None:
        with pytest.raises(
            RtiSmsInputError, match=r"^submission_id is .* use a decimal string such as '4193366853543393'"
        ):
            check_submission_id(value)

    def test_each_id_comes_once_where_a_list_is_wanted_and_as_often_as_it_stands_there_otherwise(self) -> None:
        assert parse_submission_ids(["2", 1, "2", {"submission_id": 1}]) == ["2", "1"]
        assert list(iter_submission_ids(["2", 1, "2", {"submission_id": 1}])) == ["2", "1", "2", "1"]

    def test_records_without_an_id_are_left_out_and_counted(self, caplog: pytest.LogCaptureFixture) -> None:
        caplog.set_level("INFO")
        assert parse_submission_ids([{"submission_id": None}, "1", {"submission_id": None}]) == ["1"]
        assert caplog.messages == ["2 records of submission_ids without a submission id: left out"]

    @pytest.mark.parametrize("value", [Integer(7), Decimal(7), " 7\n", [Integer(7)], (Decimal("7.0"),), iter(["\t7"])])
    def test_one_or_many_numbers_of_any_library(self, value: Any) -> None:
        assert parse_submission_ids(value) == ["7"]

    def test_an_array_is_a_list(self) -> None:
        assert parse_submission_ids(Row()) == ["1", "2"]

    @pytest.mark.parametrize(
        ("value", "what"),
        [
            ([Row()], r"submission_ids\[0\] is a value of type Row"),
            *((text, r"submission_ids\[0\] is a value of type (float|bool)") for text in ("[1e400]", "[NaN]", "[1.5]")),
            *((text, r"submission_ids\[0\] is a value of type (float|bool)") for text in ("[Infinity]", "[true]")),
            (["2", {"status": "SENT"}], r"submission_ids\[1\] is None"),
            *(
                (text, "An item of submission_ids has the key 'submission_id' more than once: rename or remove")
                for text in (
                    '[{"submission_id": "1", "submission_id": "2"}]',
                    "['3', {'submission_id': '1', 'submission_id': '2'}]",
                )
            ),
            *(
                (f"[{{{key}: 1, {key}: 2}}]", "An item of submission_ids has a key more than once: rename or remove")
                for key in ("'+56911111111'", "1")
            ),
        ],
    )
    def test_the_item_that_is_no_id_is_named(self, value: Any, what: str) -> None:
        with pytest.raises(RtiSmsInputError, match=f"^{what}"):
            parse_submission_ids(value)

    def test_numpy_and_pandas(self) -> None:
        numpy, pandas = pytest.importorskip("numpy"), pytest.importorskip("pandas")
        wide = [4193366853543393, 4193366853543394]
        frame = pandas.DataFrame({"id": wide})
        nullable = pandas.Series(wide, dtype="Int64")
        for value in (
            *(frame.id, frame.id.unique(), frame.id.values, frame.id.array, frame.id.tolist(), nullable),
            *(nullable.values, nullable.array, pandas.Index(wide), numpy.array(wide, dtype="uint64")),
            numpy.array([str(one) for one in wide]),
            numpy.array([Decimal(one) for one in wide], dtype=object),
        ):
            assert parse_submission_ids(value) == [str(one) for one in wide]
        assert parse_submission_ids(numpy.int64(7)) == parse_submission_ids(numpy.array(7)) == ["7"]
        for bad in (numpy.bool_(True), numpy.float64(7), numpy.array([7.0]), [pandas.NA], pandas.array([1, None])):
            with pytest.raises(RtiSmsInputError):
                parse_submission_ids(bad)


class TestLists:
    @pytest.mark.parametrize(
        ("value", "items"),
        [
            *(("one", ["one"]), (7, [7]), ({"submission_id": "1"}, [{"submission_id": "1"}])),
            *((["a", "b"], ["a", "b"]), (("a",), ["a"]), ('["a", "b"]', ["a", "b"])),
            *((" ['a', \"b\"]", ["a", "b"]), ("[]", []), ([], [])),
        ],
    )
    def test_one_or_many_are_taken(self, value: Any, items: list[Any]) -> None:
        assert list(as_iterable(value, "ids", "1")) == items

    def test_an_iterator_is_not_read_ahead(self) -> None:
        iterator = iter("ab")
        assert as_iterable(iterator, "ids", "1") is iterator

    @pytest.mark.parametrize("value", [None, 1.5, b"1", bytearray(b"1"), object()])
    def test_anything_else_is_refused(self, value: Any) -> None:
        with pytest.raises(RtiSmsInputError, match=r"^ids is .*: use a list, or a template that renders one\.$"):
            as_iterable(value, "ids", "1")

    @pytest.mark.parametrize("value", ["[", "[1", "[a]", "[1] 2", "[" * 100_000])
    def test_text_that_is_no_list_is_refused_with_an_example(self, value: str) -> None:
        with pytest.raises(RtiSmsInputError) as caught:
            as_iterable(value, "ids", "1")
        assert str(caught.value) == (
            f'ids is a str of {len(value)} characters that cannot be read as a list: use JSON such as ["1"].'
        )


@pytest.mark.parametrize(
    ("names", "options", "text"),
    [
        ([], {}, ""),
        (["a"], {}, "a"),
        (list("abcdefghij"), {}, "a, b, c, d, e, f, g, h, i, j"),
        (list("abcdefghijk"), {}, "a, b, c, d, e, f, g, h, i, j and 1 more"),
        (["a", "b"], {"total": 5}, "a, b and 3 more"),
        (["a", "b"], {"total": 2}, "a, b"),
        (["a", "b"], {"total": 0}, "a, b"),
        (["a", "b", "c"], {"limit": 2}, "a, b and 1 more"),
        (["a", "b", "c"], {"limit": 2, "total": 9}, "a, b and 7 more"),
    ],
)
def test_a_message_names_the_first_few_and_counts_the_rest(
    names: list[str], options: dict[str, int], text: str
) -> None:
    assert name_some(names, **options) == text
