"""What is written is sent, however a DAG renders; and a field keeps its upstream task and its order."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from contextlib import nullcontext
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import jinja2
import pytest
from airflow.providers.common.compat.sdk import DAG, AirflowFailException, TaskGroup, task
from airflow.providers.common.compat.version_compat import AIRFLOW_V_3_3_PLUS

from airflow_provider_rtisms.api.values.secret import reveal
from airflow_provider_rtisms.notifications.rtisms import RtiSmsNotifier
from airflow_provider_rtisms.operators.rtisms import (
    RtiSmsBulkGetDetailsOperator,
    RtiSmsGetBalanceOperator,
    RtiSmsGetDetailsOperator,
    RtiSmsSendOperator,
)
from airflow_provider_rtisms.sandbox import Sandbox
from airflow_provider_rtisms.sensors.rtisms import RtiSmsBalanceSensor, RtiSmsDeliverySensor
from airflow_provider_rtisms.transfers.rtisms_to_sql import RtiSmsDetailsToSqlOperator
from airflow_provider_rtisms.transfers.sql_to_rtisms import SqlToRtiSmsOperator

START = datetime(2026, 1, 1, tzinfo=UTC)
PHONE = "+56900000100"
ARGUMENTS: dict[type[Any], dict[str, Any]] = {
    RtiSmsGetDetailsOperator: {"submission_id": "1"},
    RtiSmsGetBalanceOperator: {},
    RtiSmsBulkGetDetailsOperator: {},
    RtiSmsSendOperator: {},
    SqlToRtiSmsOperator: {"sql": "SELECT 1", "sql_conn_id": "db", "recipient_column": "phone"},
    RtiSmsDetailsToSqlOperator: {"table": "sms", "sql_conn_id": "db"},
    RtiSmsDeliverySensor: {"submission_ids": ["1"]},
    RtiSmsBalanceSensor: {"minimum": 1},
    RtiSmsNotifier: {"recipients": PHONE, "text": "hola"},
}
EACH_WAY = pytest.mark.parametrize("late", [False, True], ids=["constructor", "attribute"])
EACH_KIND = pytest.mark.parametrize("kind", ARGUMENTS, ids=lambda kind: kind.__name__)
EACH_TIME = pytest.mark.parametrize("is_parsed", [True, False])
SENDS_OR_QUERIES = {RtiSmsSendOperator, RtiSmsDetailsToSqlOperator, RtiSmsNotifier}
#: What Airflow's native rendering makes something else of.
WRITTEN = ["007", "1e5", PHONE, "123456", "[1]", "(1, 2)", "{'a': 1}", "True", "None", "'hola'", "1_000", "0x1F", "50."]


VALUES = [7, 1.5, True, timedelta(1), Path("a")]
LISTS = [[PHONE, "007"], [{"text": "007", "recipient": PHONE}], {"a": 1}]


def fields(kind: type[Any]) -> list[str]:
    """Return the template fields; parameters of a query have a rule of their own."""
    return [name for name in kind.template_fields if name != "parameters"]


def make(kind: type[Any], late: bool, name: str, value: Any, **more: Any) -> Any:
    """Return a task or an alert whose field has a value, given to the constructor or assigned later."""
    task_id = {} if kind is RtiSmsNotifier else {"task_id": "task"}
    one = kind(**{**task_id, **ARGUMENTS[kind], **({} if late else {name: value}), **more})
    if late:
        setattr(one, name, value)
    return one


def rendered(kind: type[Any], name: str, field: Any, /, *, late: bool = False, **context: Any) -> Any:
    """Return a field as it is after Airflow has rendered it in a native DAG."""
    with native_dag() as dag:
        one = make(kind, late, name, field)
    one.render_template_fields({"dag": dag, "params": {}, "suppressed": 0, **context})
    return reveal(getattr(one, name))


def native_dag(**arguments: Any) -> DAG:
    return DAG("native", schedule=None, start_date=START, render_template_as_native_obj=True, **arguments)


class TestNativeRendering:
    @EACH_WAY
    @EACH_KIND
    def test_what_is_written_is_sent(self, kind: type[Any], late: bool) -> None:
        for name in fields(kind):
            if late or name != "dedup_key":  # which needs at_most_every
                assert [rendered(kind, name, text, late=late) for text in WRITTEN] == WRITTEN

    @EACH_KIND
    @pytest.mark.parametrize(
        ("values", "expected"),
        [
            pytest.param(WRITTEN, WRITTEN, id="a text stays a text"),
            pytest.param(VALUES, list(map(str, VALUES)), id="a number becomes a text, as in other DAGs"),
            pytest.param(LISTS, LISTS, id="a list stays a list"),
        ],
    )
    def test_what_a_template_gives(self, kind: type[Any], values: list[Any], expected: list[Any]) -> None:
        for name in fields(kind):
            assert [rendered(kind, name, "{{ value }}", late=True, value=one) for one in values] == expected
            if values is WRITTEN:
                parts = [rendered(kind, name, "{{ a }}{{ b }}", late=True, a=text[0], b=text[1:]) for text in WRITTEN]
                assert parts == WRITTEN
            if values is LISTS and kind is not RtiSmsNotifier:  # where Airflow 2 leaves the template
                assert rendered(kind, name, "{{ value }}", late=True, value=None) is None

    def test_in_lists_and_dicts_too(self) -> None:
        written = [{"recipient": PHONE, "text": "007", "reference": "1e5"}, {"text": "[1]"}, ("0x1F",)]
        assert rendered(RtiSmsSendOperator, "messages", written) == written
        template = [{"recipient": "{{ phone }}", "text": "{{ code }}"}]
        values = {"phone": 56900000100, "code": 123456}
        expected = [{"recipient": "56900000100", "text": "123456"}]
        assert rendered(RtiSmsSendOperator, "messages", template, **values) == expected
        assert rendered(RtiSmsBulkGetDetailsOperator, "submission_ids", ["007", "{{ id }}"], id=8) == ["007", "8"]

    @EACH_WAY
    @pytest.mark.parametrize("kind", [SqlToRtiSmsOperator, RtiSmsDetailsToSqlOperator])
    def test_parameters_of_a_query_keep_the_types_of_their_values(self, kind: type[Any], late: bool) -> None:
        parameters = {"code": "007", "limit": "{{ limit }}", "since": "{{ since }}", "in": ["{{ limit }}", "1e5"]}
        result = rendered(kind, "parameters", parameters, late=late, limit=5, since=START)
        assert result == {"code": "007", "limit": 5, "since": START, "in": [5, "1e5"]}
        assert rendered(kind, "parameters", "{{ all }}", late=late, all=[1, "2"]) == [1, "2"]

    def test_what_is_undefined_fails(self) -> None:
        for name, value in [("text", "{{ missing }}"), ("messages", [{"text": "{{ missing }}"}])]:
            with pytest.raises(jinja2.UndefinedError):
                rendered(RtiSmsSendOperator, name, value)

    def test_templates_use_what_the_dag_defines(self) -> None:
        macros, filters = {"shop": "007", "name": "other"}, {"twice": lambda value: value * 2}
        with native_dag(user_defined_macros=macros, user_defined_filters=filters):
            send = RtiSmsSendOperator(task_id="send", recipients=PHONE, text="{{ shop | twice }}", sender="{{ name }}")
        send.render_template_fields({"name": "96000"})
        assert (reveal(send.text), send.sender) == ("007007", "96000")

    @pytest.mark.parametrize("value", [None, {"a": 1}, [1, 2], (1, 2)], ids=repr)
    def test_an_alert_goes_out_whatever_a_template_gives(self, rtisms_sandbox: Sandbox, value: Any) -> None:
        """As ``{{ dag_run.conf }}`` and ``{{ ti.xcom_pull(...) }}`` in a DAG that does not render natively."""
        for is_native in (True, False):
            dag = DAG("dag", schedule=None, start_date=START, render_template_as_native_obj=is_native)
            RtiSmsNotifier(recipients=PHONE, text="{{ value }}", sender="96000")({"dag": dag, "value": value})
        assert [message.text for message in rtisms_sandbox.state().messages] == [str(value)] * 2


class TestTemplateFiles:
    """Only a field that is alone a file name is one."""

    URL = "https://x.cl/a.txt"
    TEXTS = (f"See {URL}", f"See\n{URL}", f"Ver\u00a0{URL}", URL, "{{ word }}.txt", "Lee {name}.j2", "{{ word }}.j2")

    @pytest.fixture
    def dag(self, tmp_path: Path) -> DAG:
        (tmp_path / "a.txt").write_text("content of {{ word }}")
        (tmp_path / "a.sql").write_text("content of {{ word }}")
        (tmp_path / "url.txt").write_text(self.URL)
        return DAG("files", schedule=None, start_date=START, template_searchpath=[str(tmp_path)])

    @staticmethod
    def render(one: Any, name: str, *, is_parsed: bool) -> Any:
        if is_parsed:
            one.resolve_template_files()
        one.render_template_fields({"dag": one.dag, "word": "that"})
        return reveal(getattr(one, name))

    @EACH_TIME
    @EACH_WAY
    @pytest.mark.parametrize(
        ("kind", "name", "value", "expected"),
        [
            *(
                (kind, "text", text, text.replace("{{ word }}", "that"))
                for text in TEXTS
                for kind in (RtiSmsSendOperator, SqlToRtiSmsOperator)
            ),
            (RtiSmsSendOperator, "text", "a.txt", "content of that"),
            (RtiSmsSendOperator, "text", "url.txt", URL),
            (SqlToRtiSmsOperator, "text", "a.txt", "content of that"),
            (SqlToRtiSmsOperator, "sql", "a.sql", "content of that"),
            (RtiSmsDetailsToSqlOperator, "sql", "a.sql", "content of that"),
            *(
                (kind, name, value, value)
                for kind, name, value in (
                    # What a bulk fetch reads and writes is no template.
                    (RtiSmsBulkGetDetailsOperator, "submission_ids_path", "a.txt"),
                    (RtiSmsBulkGetDetailsOperator, "output_path", "a.txt"),
                    (RtiSmsBulkGetDetailsOperator, "missing_path", "a.txt"),
                    # A value in a list or a dict is none.
                    (RtiSmsSendOperator, "messages", [{"recipient": PHONE, "text": "a.txt", "reference": "a.j2"}]),
                    (RtiSmsSendOperator, "messages", {"recipient": PHONE, "text": "a.txt"}),
                    (RtiSmsSendOperator, "recipients", ["a.txt", ("a.j2",)]),
                    (SqlToRtiSmsOperator, "parameters", {"file": "a.sql", "in": ["a.txt"]}),
                    (SqlToRtiSmsOperator, "parameters", ["a.sql"]),
                    (RtiSmsDetailsToSqlOperator, "parameters", {"file": "a.sql"}),
                    (RtiSmsDetailsToSqlOperator, "submission_ids", ["a.sql"]),
                )
            ),
        ],
    )
    def test_a_text_that_is_a_file_name_alone_is_a_file_and_nothing_else_is(
        self, dag: DAG, kind: type[Any], name: str, value: Any, expected: Any, late: bool, is_parsed: bool
    ) -> None:
        one = make(kind, late, name, value, dag=dag, **({"sql": "a.sql"} if name == "parameters" else {}))
        assert self.render(one, name, is_parsed=is_parsed) == expected
        assert name != "parameters" or one.sql == "content of that"

    @pytest.mark.parametrize("kind", [kind for kind in ARGUMENTS if not SENDS_OR_QUERIES & {*kind.__mro__}])
    def test_operators_without_texts_read_no_template_files(self, kind: type[Any]) -> None:
        assert tuple(kind.template_ext) == ()

    @pytest.mark.parametrize("name", ["messages_path", "output_path"])
    def test_a_path_that_is_taken_for_a_template_shows_nothing_of_the_file(
        self, dag: DAG, tmp_path: Path, rtisms_sandbox: Sandbox, name: str
    ) -> None:
        (tmp_path / "people.txt").write_text(f"{PHONE}\n")
        arguments = {} if name == "messages_path" else ARGUMENTS[RtiSmsSendOperator]
        send = RtiSmsSendOperator(task_id="task", dag=dag, sender="96000", **arguments, **{name: "people.txt"})
        send.resolve_template_files()
        send.render_template_fields({"dag": dag})
        with pytest.raises(AirflowFailException, match=rf"^{name} does not end in .*a template file") as raised:
            send.execute({})
        assert PHONE[-4:] not in str(raised.value)

    @pytest.mark.parametrize("is_native", [False, True])
    def test_a_file_that_is_missing_fails_without_the_text(
        self, dag: DAG, is_native: bool, logged: Callable[[], str]
    ) -> None:
        dag.render_template_as_native_obj = is_native
        send = RtiSmsSendOperator(task_id="task", dag=dag, recipients=PHONE, text="PIN-4711.txt")
        send.resolve_template_files()
        assert "The template file of the field text cannot be read" in logged()
        assert "4711" not in logged()
        with pytest.raises(AirflowFailException, match=r"a \.txt file that is neither in the folder") as raised:
            send.render_template_fields({"dag": dag})
        assert "4711" not in str(raised.value) + logged()
        assert raised.value.__cause__ is None

    def test_an_alert_follows_the_same_rule(self, dag: DAG, rtisms_sandbox: Sandbox, logged: Callable[[], str]) -> None:
        for text in (self.URL, f"See {self.URL}", "a.txt", "PIN-4711.txt"):
            RtiSmsNotifier(recipients=[PHONE], text=text, sender="96000")({"dag": dag, "word": "that"})
        sent = [message.text for message in rtisms_sandbox.state().messages]
        assert sent == [self.URL, f"See {self.URL}", "content of that"]
        assert "The alert failed: A template field is the name of a .txt file" in logged()
        assert "4711" not in logged()


class TestUpstream:
    """BaseOperator finds the tasks whose output a field holds, in all of its ways."""

    CONFIDENTIAL = (
        (RtiSmsSendOperator, "recipients"),
        (RtiSmsSendOperator, "text"),
        (RtiSmsSendOperator, "messages"),
        (SqlToRtiSmsOperator, "text"),
        (SqlToRtiSmsOperator, "parameters"),
        (RtiSmsDetailsToSqlOperator, "parameters"),
        (RtiSmsDeliverySensor, "submission_ids"),
    )
    WAYS: tuple[tuple[str, Callable[[Any], Any]], ...] = (
        ("output", lambda output: output),
        ("key", lambda output: output["key"]),
        ("map", lambda output: output.map(str)),
        ("list", lambda output: [PHONE, output]),
        ("dict", lambda output: {"a": output}),
        ("deep", lambda output: [{"recipient": PHONE, "text": (output,)}]),
    )

    @staticmethod
    def upstream() -> Any:
        return task(task_id="numbers")(lambda: ["1"])()

    @pytest.mark.parametrize(("kind", "name"), CONFIDENTIAL)
    @pytest.mark.parametrize("way", [one for _, one in WAYS], ids=[name for name, _ in WAYS])
    @EACH_WAY
    @pytest.mark.parametrize("is_in_group", [False, True], ids=["", "group"])
    def test_a_field_sets_it(self, kind: type[Any], name: str, way: Any, late: bool, is_in_group: bool) -> None:
        with DAG("dag", schedule=None, start_date=START):
            value = way(self.upstream())
            with TaskGroup("group") if is_in_group else nullcontext():
                one = make(kind, late, name, value)
        assert one.upstream_task_ids == {"numbers"}

    @pytest.mark.parametrize(("kind", "name"), CONFIDENTIAL)
    @pytest.mark.parametrize("how", ["partial", "expand", "expand_kwargs"])
    def test_mapping_sets_it(self, kind: type[Any], name: str, how: str) -> None:
        arguments = {key: value for key, value in ARGUMENTS[kind].items() if key != name}
        with DAG("dag", schedule=None, start_date=START):
            output = self.upstream()
            if how == "partial":
                one = kind.partial(task_id="one", **arguments, **{name: output}).expand(rtisms_conn_id=["a", "b"])
            else:
                partial = kind.partial(task_id="one", **arguments)
                one = partial.expand(**{name: output}) if how == "expand" else partial.expand_kwargs(output)
        assert one.upstream_task_ids == {"numbers"}

    def test_what_is_assigned_and_cannot_be_rendered_is_not_shown(self, logged: Callable[[], str]) -> None:
        send = RtiSmsSendOperator(task_id="send", dag=DAG("dag", schedule=None, start_date=START))
        send.messages = [{"recipient": PHONE, "text": "hola {{ missing }}"}]
        with pytest.raises(jinja2.UndefinedError):
            send.render_template_fields({})
        assert "redacted: 1 values" in logged()
        assert PHONE not in logged()
        assert "hola" not in logged()

    def test_what_is_rendered_stays_redacted(self) -> None:
        with DAG("dag", schedule=None, start_date=START):
            send = RtiSmsSendOperator(task_id="send", text="hola")
            send.recipients = self.upstream()
        send.recipients = [PHONE]  # as Airflow does with the output of the task
        assert PHONE not in str(send.recipients)


def test_a_template_field_of_a_subclass_is_kept_as_the_others_are() -> None:
    class WithGreeting(RtiSmsSendOperator):
        template_fields = (*RtiSmsSendOperator.template_fields, "greeting", "days")
        redacted_fields = (*RtiSmsSendOperator.redacted_fields, "greeting")

        def __init__(self, *, greeting: str, days: set[str], **kwargs: Any) -> None:
            super().__init__(**kwargs)
            self.greeting, self.days = greeting, days

    send = WithGreeting(task_id="send", text="hola", greeting="hola {{ name }}", days={"2", "1"})
    send.render_template_fields({"name": "Ana"})
    assert (reveal(send.greeting), send.days) == ("hola Ana", ["1", "2"])
    assert str(send.greeting) == "redacted: 8 characters"


ORDER_SCRIPT = """
import json
from datetime import datetime, timezone
from airflow.providers.common.compat.sdk import DAG
from airflow_provider_rtisms.api.models import FINAL_STATUSES
from airflow_provider_rtisms.operators.rtisms import RtiSmsBulkGetDetailsOperator, RtiSmsSendOperator
from airflow_provider_rtisms.sensors.rtisms import RtiSmsDeliverySensor
from airflow_provider_rtisms.transfers.sql_to_rtisms import SqlToRtiSmsOperator
try:
    from airflow.serialization.serialized_objects import DagSerialization as Serialized
except ImportError:
    from airflow.serialization.serialized_objects import SerializedDAG as Serialized

ids = {str(number) for number in range(20)}
numbers = frozenset(f"+569000001{number:02}" for number in range(20))
with DAG("dag", schedule=None, start_date=datetime(2026, 1, 1, tzinfo=timezone.utc)) as dag:
    fail_on = FINAL_STATUSES - {"DELIVERED"}
    RtiSmsSendOperator(task_id="send", recipients=numbers, text="hola", fail_on=fail_on)
    RtiSmsSendOperator.partial(task_id="sends", recipients=numbers, fail_on=fail_on).expand(text=["a", "b"])
    RtiSmsSendOperator(task_id="late", text="hola").recipients = set(numbers)
    RtiSmsSendOperator(task_id="within", text="hola", recipients=[numbers, ("+56900000200", numbers)])
    RtiSmsBulkGetDetailsOperator(task_id="bulk", submission_ids=ids)
    RtiSmsBulkGetDetailsOperator.partial(task_id="bulks", submission_ids=frozenset(ids)).expand(raw=[True])
    SqlToRtiSmsOperator.partial(
        task_id="sql", sql_conn_id="db", recipient_column="phone", fail_on=fail_on, parameters={"ids": [frozenset(ids)]}
    ).expand(sql=["SELECT 1"])
    RtiSmsDeliverySensor(task_id="wait", submission_ids=ids, fail_on=fail_on, deferrable=True)
    RtiSmsDeliverySensor.partial(task_id="waits", fail_on=fail_on).expand(submission_ids=[["1"], ["2"]])
data = Serialized.to_dict(dag)
print(json.dumps(data, sort_keys=True))  # as Airflow hashes it
"""


@pytest.mark.slow
def test_a_set_is_stored_in_a_fixed_order() -> None:
    """The hash seed differs between the processes that parse a DAG, and each difference is a new version of it."""
    outputs = set()
    for seed in ("1", "2", "3"):
        environment = {**os.environ, "PYTHONHASHSEED": seed}
        command = [sys.executable, "-c", ORDER_SCRIPT]
        done = subprocess.run(command, env=environment, check=True, capture_output=True, text=True)
        outputs.add(done.stdout.splitlines()[-1])
    (output,) = outputs
    assert "+56900000100" in output
    assert "frozenset" not in output


def test_an_argument_without_a_set_stays_the_same_object() -> None:
    """Airflow must not render what mapped tasks get from upstream tasks, and knows it by its identity."""
    ids = ["1", ("2", {"submission_id": "3"})]
    assert RtiSmsDeliverySensor(task_id="wait", submission_ids=ids).submission_ids is ids


def test_the_warning_that_nothing_is_remembered_says_what_is_true_once(
    rtisms_sandbox: Sandbox, caplog: pytest.LogCaptureFixture
) -> None:
    given = {"task_id": "send", "recipients": PHONE, "text": "hola", "sender": "96000"}
    nothing = {"recipients": None, "text": None, "messages": []}
    RtiSmsSendOperator(**given | nothing).execute({})
    for wrong in ({"recipients": "no number"}, {"max_parts": 1, "text": "a" * 500}, {"output_path": "a.txt"}):
        with pytest.raises(AirflowFailException):
            RtiSmsSendOperator(**given | wrong).execute({})
    assert "task state store" not in caplog.text, "it comes only where something is sent"
    RtiSmsSendOperator(**given).execute({})
    (shown,) = [message for message in caplog.messages if "task state store" in message]
    outside, below = "outside of a task run", "This Airflow has no task state store (it is new in 3.3)"
    assert (outside in shown, below in shown) == (AIRFLOW_V_3_3_PLUS, not AIRFLOW_V_3_3_PLUS)
