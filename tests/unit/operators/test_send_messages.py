"""The send operator with a text for each person: references, kills, files, limits and the default sender."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import pytest
from airflow.providers.common.compat.sdk import AirflowFailException

from airflow_provider_rtisms.api.aio import AsyncRtiSmsClient
from airflow_provider_rtisms.api.calls import Call
from airflow_provider_rtisms.hooks.templates import Redacted
from airflow_provider_rtisms.operators.rtisms import RtiSmsSendOperator
from airflow_provider_rtisms.sandbox import Fault, Sandbox
from tests.hostile import response
from tests.unit.conftest import Serve

Context = dict[str, Any]
NUMBER = "+56900000100"


def people(count: int) -> list[dict[str, Any]]:
    """Return messages to numbers of which none is one of the sandbox's magic numbers."""
    return [
        {
            "recipient": f"+569{number // 800:05}{100 + number % 800}",
            "text": f"Invoice {number} is due",
            "reference": f"invoice {number}",
        }
        for number in range(count)
    ]


def send(messages: Any = None, **arguments: Any) -> RtiSmsSendOperator:
    return RtiSmsSendOperator(**{"task_id": "send", "messages": messages, "sender": "96000", **arguments})


def received(sandbox: Sandbox) -> Counter[str]:
    """Count the messages that the sandbox took, by text."""
    return Counter(message.text for message in sandbox.state().messages if message.status == "submitted")


def each_once(count: int) -> Counter[str]:
    return Counter(message["text"] for message in people(count))


def test_results_carry_references(rtisms_sandbox: Sandbox, context: Context) -> None:
    messages = people(3)
    messages.append({**messages[0], "reference": "another"})
    messages.append({"recipient": "+56900010109", "text": "hola"})
    results = send(json.dumps(messages)).execute(context)
    assert [result["reference"] for result in results] == ["invoice 0", "invoice 1", "invoice 2", "another", None]
    by_id = {message.submission_id: message.text for message in rtisms_sandbox.state().messages}
    assert [by_id[result["submission_id"]] for result in results] == [message["text"] for message in messages]
    assert context["ti"].pushed["submissions"] == results


ONE = people(1)[0]


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ({"messages": [*people(3), {"recipient": "", "text": None}, *people(1)]}, r"messages\[3\].*messages\[4\]"),
        ({"messages": people(3), "max_messages": 2}, "There are 3 messages"),
        ({"messages": people(3), "max_parts_total": 2}, "3 messages take 3 parts, more than max_parts_total=2"),
        ({"recipients": [m["recipient"] for m in people(3)], "text": "hola", "max_messages": 2}, "There are 3"),
        ({"recipients": ["+56900000100", "nobody"], "text": "hola"}, r"recipients\[1\]"),
        ({"recipients": NUMBER, "text": "a" * 161, "max_parts": 1}, "max_parts"),
        ({"recipients": NUMBER, "text": "ā", "charset": 1}, "U[+]0101"),
        ({"recipients": NUMBER, "text": "\ud800"}, r"text\[0\] is '\\ud800' \(U\+D800\)"),
        *(({"messages": people(3), name: "2"}, f"^{name} is") for name in ("max_messages", "max_parts_total")),
        ({"messages": people(3), "on_uncertain": "retry"}, "on_uncertain"),
        ({"messages": people(3), "chunk_size": 0}, "chunk_size"),
        ({"messages": people(3), "output_path": "results.parquet"}, "output_path"),
        ({"messages": people(3), "sender": "96\ud800"}, "sender is a str"),
        ({"messages": people(3), "sender": None}, "the field 'sender' in the extra of the Connection rtisms_default"),
        ({"messages": [{**ONE, "text": "a\ud800"}]}, r"messages\[0\] has a text that cannot be sent"),
        ({"messages": [{**ONE, "reference": "a\udc80"}]}, r"messages\[0\] has a reference that is not printable"),
        ({"messages": [{**ONE, "recipient": "+56900\udfff"}]}, r"messages\[0\] has a recipient that is not"),
        ({"messages": [{**ONE, "recipient": 56932217456}]}, r"type int; store it as text"),
        ({"messages": [{**ONE, "recipient": 932217456.0}], "default_region": "CL"}, r"float; store it"),
        *(
            ({"messages": people(3), **hours}, next(iter(hours)))
            for hours in (
                {"allowed_hours": ("9", "20:00"), "timezone": "UTC"},
                {"timezone": None, "allowed_hours": ("09:00", "20:00")},
                {"outside_hours": "skip", "allowed_hours": ("09:00", "20:00"), "timezone": "UTC"},
            )
        ),
        *(
            ({"messages": people(2), "wait_for_delivery": waits, name: value}, f"^{name}")
            for name, value in (
                *(("fail_on", "REJECTED"), ("fail_on", ["SENT"]), ("missing_ok_for", "x"), ("timeout", "1h")),
                *(("poke_interval", None), *(("min_delivered", value) for value in (0, 1.5, True, "1"))),
            )
            for waits in (True, False)
        ),
        ({"messages": people(2), "wait_for_delivery": True, "min_delivered": 3}, "^min_delivered"),
        ({"messages_path": "a.xlsx"}, r"^messages_path is a spreadsheet \(\.xlsx\).* as CSV"),
        ({"messages_path": "a.csv", "csv_delimiter": "ab"}, "^csv_delimiter is a str of 2 characters"),
        ({"messages": people(1), "csv_delimiter": ";"}, "^csv_delimiter and csv_encoding are for messages_path: leave"),
        ({"recipients": NUMBER, "text": "hola", "csv_encoding": "cp1252"}, "are for messages_path: leave"),
        ({"messages": people(1), "exclude_path": "nowhere.csv"}, "nowhere.csv"),
        ({"messages": people(1), "dry_run": "False"}, "^dry_run"),
        *(({"messages": people(1), "default_region": one}, "^default_region is .* two letters") for one in ("XX", 56)),
        *(
            ({**what, "smart_encoding": value}, "^smart_encoding is .*: use True or False")
            for what in ({"messages": people(1)}, {"recipients": NUMBER, "text": "hola"})
            for value in ("no", None)
        ),
        ({"messages": people(1), "smart_encoding": True, "charset": 1}, "^smart_encoding picks the charset"),
        *(
            (arguments, "either recipients and text, or messages, or messages_path")
            for arguments in (
                *({}, {"messages": people(1), "messages_path": "a.csv"}, {"messages": people(1), "text": "hola"}),
                {"recipients": NUMBER, "messages_path": "a.csv"},
            )
        ),
    ],
)
@pytest.mark.parametrize("dry_run", [False, True])
def test_a_bad_argument_fails_before_anything_is_sent(
    rtisms_sandbox: Sandbox, arguments: dict[str, Any], named: str, dry_run: bool
) -> None:
    with pytest.raises(AirflowFailException, match=named) as caught:
        send(**{"dry_run": dry_run, **arguments}).execute({})
    assert "POST sms" not in rtisms_sandbox.state().requests
    assert "5690000010" not in str(caught.value)


def test_messages_come_from_a_file_and_results_go_to_one(
    rtisms_sandbox: Sandbox, context: Context, tmp_path: Path, logged: Callable[[], str]
) -> None:
    source, target = tmp_path / "people.jsonl", tmp_path / "results.jsonl"
    source.write_text("\n".join(map(json.dumps, people(30))))
    rtisms_sandbox.set_balance("10")
    with pytest.raises(AirflowFailException, match="no balance"):
        send(messages_path=str(source), output_path=str(target)).execute(context)
    assert f"The results of all messages are in {target}" in logged()
    counts = {
        "messages": 30,
        "submitted": 10,
        "refused": 20,
        "uncertain": 0,
        "not_sent": 0,
        "excluded": 0,
        "vanished": 0,
    }
    assert context["ti"].pushed["submissions"] == {"path": str(target), **counts}
    results = [json.loads(line) for line in target.read_text().splitlines()]
    assert [result["reference"] for result in results] == [f"invoice {number}" for number in range(30)]
    assert Counter(result["outcome"] for result in results) == {"submitted": 10, "refused": 20}

    rtisms_sandbox.set_balance("100")
    summary = send(messages_path=source, output_path=target).execute(context)
    assert summary == {"path": str(target), **counts, "submitted": 30, "refused": 0}
    assert received(rtisms_sandbox) == each_once(30)


def test_more_messages_than_xcom_takes_need_an_output_path_that_can_be_written(
    rtisms_sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("airflow_provider_rtisms.operators.send.MAX_RESULTS_IN_XCOM", 2)
    with pytest.raises(AirflowFailException, match="Set output_path"):
        send(people(3)).execute({})
    with pytest.raises(AirflowFailException, match=r"Writing .*null/results\.csv"):
        send(people(3), output_path="/dev/null/results.csv").execute({})
    assert "POST sms" not in rtisms_sandbox.state().requests
    assert len(send(people(2)).execute({})) == 2


def test_a_wait_with_an_output_path_returns_counts(rtisms_sandbox: Sandbox, tmp_path: Path) -> None:
    path = str(tmp_path / "results.csv")
    wait = {"wait_for_delivery": True, "deferrable": False, "poke_interval": 0.1}
    result = send(people(3), output_path=path, **wait).execute({})
    assert result == {"path": path, "submitted": 3, "by_status": {"DELIVERED": 3}}


def test_lost_responses_end_the_sending_before_the_whole_window_is_uncertain(
    rtisms_sandbox: Sandbox, context: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Requests that wait for their turn when the API stops to respond do not leave."""
    perform = AsyncRtiSmsClient.perform

    async def break_after_the_first(client: AsyncRtiSmsClient, call: Call[Any]) -> Any:
        result = await perform(client, call)
        rtisms_sandbox.set_faults(Fault("error", path="sms", statuses=(500,)))
        return result

    monkeypatch.setattr(AsyncRtiSmsClient, "perform", break_after_the_first)
    with pytest.raises(AirflowFailException):
        send(people(200)).execute(context)
    outcomes = Counter(one["outcome"] for one in context["ti"].pushed["submissions"])
    assert outcomes["submitted"] == 1
    assert 2 < outcomes["uncertain"] <= 2 + 32
    assert rtisms_sandbox.state().requests["POST sms"] <= 1 + 2 + 32


def test_rows_that_vanished_are_said(rtisms_sandbox: Sandbox, context: Context, logged: Callable[[], str]) -> None:
    first = send(people(3)).execute(context)
    send(people(4)[2:]).execute(context)
    said = re.search(r"No longer among the messages: 2 submitted messages \((\d+), (\d+)\)", logged())
    assert said
    assert set(said.groups()) == {one["submission_id"] for one in first[:2]}
    assert received(rtisms_sandbox) == each_once(4)


def test_an_uncertain_row_that_vanished_fails_the_task(rtisms_sandbox: Sandbox, context: Context) -> None:
    rtisms_sandbox.set_faults(Fault("lost_response", path="sms", times=1))
    for messages in (people(2), people(2)[1:]):
        with pytest.raises(AirflowFailException, match="1 uncertain"):
            send(messages).execute(context)
    send(people(2)[1:], on_uncertain="skip").execute(context)
    assert received(rtisms_sandbox) == each_once(2)


@pytest.mark.parametrize(
    ("value", "shown"),
    [("hola", "redacted: 4 characters"), (people(2), "redacted: 2 values"), (iter(people(2)), "redacted")],
)
def test_a_redacted_value_shows_its_size_alone(value: Any, shown: str) -> None:
    assert (str(Redacted(value)), repr(Redacted(value))) == (shown, shown)


@pytest.mark.parametrize("status", ["not_sent", "uncertain", "refused"])
def test_the_vendors_word_is_not_our_verdict(serve_default: Serve, status: str) -> None:
    serve_default(response({"submissions": [{"status": status}]}))
    with pytest.raises(AirflowFailException, match="1 uncertain"):
        send(people(1)).execute({})


def set_extra(sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch, **extra: Any) -> None:
    connection = {**json.loads(sandbox.connection_json()), "extra": extra}
    monkeypatch.setenv("AIRFLOW_CONN_RTISMS_DEFAULT", json.dumps(connection))


def test_the_connection_has_the_default_sender_and_the_argument_wins(
    rtisms_sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    set_extra(rtisms_sandbox, monkeypatch, sender="97000")
    send(people(1), sender=None).execute({})
    send(people(1)).execute({})
    assert [message.sender for message in rtisms_sandbox.state().messages] == ["97000", "96000"]
    set_extra(rtisms_sandbox, monkeypatch, sender="blocked")
    with pytest.raises(AirflowFailException, match="'sender' in the extra of the Connection rtisms_default"):
        send(people(1), sender=None).execute({})
    with pytest.raises(AirflowFailException, match="comes from the argument 'sender'"):
        send(people(1), sender="blocked").execute({})


class TestNationalNumbers:
    NATIONAL: ClassVar[list[str]] = ["9 8765 4321", "(9) 8765-4322", "56987654323", "+56 9 8765 4324"]
    E164: ClassVar[list[str]] = ["+56987654321", "+56987654322", "+56987654323", "+56987654324"]
    EACH_KIND = pytest.mark.parametrize("kind", ["recipients", "messages", "messages_path"])

    def arguments(self, kind: str, numbers: list[str], folder: Path) -> dict[str, Any]:
        if kind == "recipients":
            return {"recipients": numbers, "text": "hola"}
        if kind == "messages":
            return {"messages": [{"recipient": number, "text": "hola"} for number in numbers]}
        lines = ["recipient;text", *(f"{number};hola" for number in numbers)]
        (folder / "a.csv").write_bytes("\r\n".join(lines).encode("cp1252"))
        return {"messages_path": str(folder / "a.csv"), "csv_encoding": "cp1252"}

    @EACH_KIND
    @pytest.mark.parametrize("place", ["argument", "extra"])
    def test_they_are_completed(
        self,
        rtisms_sandbox: Sandbox,
        monkeypatch: pytest.MonkeyPatch,
        logged: Callable[[], str],
        tmp_path: Path,
        kind: str,
        place: str,
    ) -> None:
        set_extra(rtisms_sandbox, monkeypatch, default_region="cl" if place == "extra" else "PL")
        region = {"default_region": "CL"} if place == "argument" else {}  # the argument counts more
        send(**self.arguments(kind, self.NATIONAL, tmp_path), **region).execute({})
        assert sorted(message.recipient for message in rtisms_sandbox.state().messages) == self.E164
        assert "completed as numbers of CL: 3" in logged()

    @EACH_KIND
    def test_what_is_no_certain_mobile_number_is_refused_with_its_row(
        self, rtisms_sandbox: Sandbox, tmp_path: Path, kind: str
    ) -> None:
        arguments = self.arguments(kind, ["9 8765 4321", "2 2123 4567", "987654322", "98765"], tmp_path)
        first, second = {"messages_path": ("line 3", "line 5")}.get(kind, (rf"{kind}\[1\]", rf"{kind}\[3\]"))
        with pytest.raises(AirflowFailException, match=rf"{first}.*{second}") as caught:
            send(**arguments, default_region="CL").execute({})
        assert "a mobile number of CL" in str(caught.value)
        assert not {"2123", "98765"} & set(str(caught.value).split())
        with pytest.raises(AirflowFailException, match=r"(N|n)ot a phone number in international form"):
            send(**arguments).execute({})
        assert "POST sms" not in rtisms_sandbox.state().requests

    def test_two_forms_of_a_number_are_one_recipient(self, rtisms_sandbox: Sandbox) -> None:
        rows = [{"recipient": number, "text": "hola"} for number in ("987654321", "+56987654321")]
        with pytest.raises(AirflowFailException, match=r"messages\[1\] has the same recipient as messages\[0\]"):
            send(rows, default_region="CL").execute({})
        with pytest.raises(AirflowFailException, match=r"messages\[0\] has a reference that repeats its recipient"):
            send([{**rows[0], "reference": "order 987654321"}], default_region="CL").execute({})


class TestSmartEncoding:
    LONG: ClassVar[str] = "“Hola” – it’s\u00a0time… " * 5  # 105 characters: 2 parts in UCS-2, 1 in GSM 7-bit

    @pytest.mark.parametrize(
        ("text", "sent"),
        [(LONG, '"Hola" - it\'s time... ' * 5), ("“Hola”", "“Hola”"), (LONG + "ő", LONG + "ő"), ("hola", "hola")],
    )
    def test_it_changes_a_text_where_that_saves_a_part(
        self, rtisms_sandbox: Sandbox, logged: Callable[[], str], text: str, sent: str
    ) -> None:
        message = [{"recipient": NUMBER, "text": text}]
        send(message, smart_encoding=True).execute({})
        send(recipients=NUMBER, text=text, smart_encoding=True).execute({})
        send(message).execute({})
        assert [one.text for one in rtisms_sandbox.state().messages] == [sent, sent, text]
        assert ("Texts in which smart_encoding replaced characters: 1, parts" in logged()) == (sent != text)

    def test_a_limit_counts_the_parts_that_are_sent(self, rtisms_sandbox: Sandbox) -> None:
        limits = {"max_parts": 1, "max_parts_total": 1}
        send([{"recipient": NUMBER, "text": self.LONG}], smart_encoding=True, **limits).execute({})
        assert len(rtisms_sandbox.state().messages) == 1
