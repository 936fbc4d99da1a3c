"""
Alerts by SMS, and how one SMS stands for many of them. Importing this module loads no HTTP library.

What is remembered of the alerts of one ``dedup_key`` is in one Airflow Variable. Variables are the only store that
every process of every supported Airflow can write: tasks, the DAG processor and the triggerer. They have no
compare-and-set, so all of this is best effort. An alert reads the state, claims the SMS, waits for a moment, and looks
once whether its claim is still there. In a storm, a process that is slow in between may cost an SMS more, and alerts
that are counted in the same moment may count as one.
"""

from __future__ import annotations

import copy
import hashlib
import json
import logging
import random
import secrets
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from airflow_provider_rtisms.api.errors import RtiSmsInputError
from airflow_provider_rtisms.api.values.arguments import check_seconds, check_whole_number
from airflow_provider_rtisms.compat import BaseNotifier, Variable
from airflow_provider_rtisms.hooks.rtisms import RtiSmsHook
from airflow_provider_rtisms.hooks.templates import RendersAsWritten

if TYPE_CHECKING:
    from airflow_provider_rtisms.compat import Context

__all__ = ["RtiSmsNotifier"]

log = logging.getLogger(__name__)

#: Seconds; 30 days.
LONGEST_PERIOD = 30 * 24 * 3600
#: More alerts are not waited for.
MAX_ONLY_AFTER = 1_000_000
_LONG_AGO = "1970-01-01T00:00:00+00:00"
#: Changes when an older release would misread the state.
VERSION = 2
#: Seconds: shortest pause between a write and the read that checks it. The longest is twice that.
SETTLE = 0.25
#: Seconds: for so long, an alert that is about to send keeps the others from sending, unless it reports that it has
#: sent. Airflow 3 stops the callback of a task 20 s after the task has ended (``[core] task_success_overtime``).
LEASE = 60.0


class RtiSmsNotifier(RendersAsWritten, BaseNotifier):
    """
    Send an SMS when something happens: ``on_failure_callback``, ``on_success_callback``, deadline alerts and so on.

    An alert that cannot be sent is logged, and does not fail the task or the DAG run. A request that may have been sent
    is not repeated. A text that is too long is cut to ``max_parts`` and ends with an ellipsis.

    With ``dedup_key`` and ``at_most_every``, one SMS stands for many alerts. Later alerts of the key are counted until
    ``at_most_every`` has passed. The next one is sent then, and says how many were counted. This is best effort: if the
    count cannot be used, the alert is sent, and in a storm, a second SMS may go out.

    :param recipients: (templated) a phone number in international form, a list of them, or a JSON list.
    :param text: (templated) the message; may be the name of a file, without spaces, that ends in ``.txt`` or ``.j2``.
        ``suppressed`` is the number of alerts since the last SMS that were not sent; 0 without ``dedup_key``.
    :param sender: (templated) as allowed for the account; default the field ``sender`` in the extra of the Connection.
    :param rtisms_conn_id: (templated) the Connection.
    :param charset: 0, 1, 6 or 8 of the API; None picks by the text.
    :param max_parts: most parts that one SMS may take.
    :param dedup_key: (templated) what the alerts have in common that one SMS may stand for. Each key leaves one
        Variable in Airflow, so it must not contain the id or the date of a run.
    :param at_most_every: seconds or timedelta between two SMS with the same ``dedup_key``, at most 30 days; 0 to send
        each alert, and to say how many were counted before it.
    :param only_after: how many alerts of a ``dedup_key`` it takes within ``at_most_every`` until the first SMS: with
        10, nine alerts are counted, and the tenth is sent.
    :param suppressed_suffix: (templated) follows the text if ``suppressed`` is not 0. It is never cut.
    :param kwargs: ``context``, if Airflow passes one.
    :raises RtiSmsInputError: ``at_most_every`` or ``only_after`` is out of bounds, or only one of ``dedup_key`` and
        ``at_most_every`` is given.
    """

    template_fields: Sequence[str] = (
        "recipients",
        "text",
        "sender",
        "rtisms_conn_id",
        "dedup_key",
        "suppressed_suffix",
    )
    template_ext: Sequence[str] = (".txt", ".j2")

    def __init__(
        self,
        *,
        recipients: Any,
        text: str,
        sender: str | None = None,
        rtisms_conn_id: str = "rtisms_default",
        charset: int | None = None,
        max_parts: int = 1,
        dedup_key: str | None = None,
        at_most_every: timedelta | float | None = None,
        only_after: int = 1,
        suppressed_suffix: str = " (+{{ suppressed }} since the last SMS)",
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.recipients = recipients
        self.text = text
        self.sender = sender
        self.rtisms_conn_id = rtisms_conn_id
        self.charset = charset
        self.max_parts = max_parts
        self.dedup_key = dedup_key
        self.at_most_every = _check_at_most_every(dedup_key, at_most_every)
        self.only_after = check_whole_number("only_after", only_after, most=MAX_ONLY_AFTER)
        if self.only_after > 1 and not self.at_most_every:
            raise RtiSmsInputError("only_after counts the alerts of a dedup_key within at_most_every: give both.")
        self.suppressed_suffix = suppressed_suffix

    def __call__(self, *args: Any) -> None:
        """Render the templates and send, on a copy: rendering replaces the templates, and the next alert needs them."""
        names = ("dag", "task_list", "blocking_task_list", "slas", "blocking_tis")  # sla_miss_callback of Airflow 2
        context = args[0] if len(args) == 1 else dict(zip(names, args, strict=False))
        copy.copy(self)._alert(context, is_rendered=False)

    def __await__(self) -> Generator[Any, None, None]:
        """
        Render the templates and send a deadline alert, in the triggerer (Airflow 3.1 and later).

        It runs in a thread, since Connections and Variables can only be read there.
        """
        from asgiref.sync import sync_to_async

        alert = sync_to_async(copy.copy(self)._alert)
        return alert(self.context, is_rendered=False, is_in_triggerer=True).__await__()

    def notify(self, context: Context) -> None:
        """Send the alert from blocking code."""
        copy.copy(self)._alert(context, is_rendered=True)

    async def async_notify(self, context: Context) -> None:
        """Send the alert without blocking the event loop, in a thread, since Connections can only be read there."""
        from asgiref.sync import sync_to_async

        await sync_to_async(copy.copy(self)._alert)(context, is_rendered=True, is_in_triggerer=True)

    def _alert(self, context: Any, *, is_rendered: bool, is_in_triggerer: bool = False) -> None:
        """Render the key, then decide whether the alert is due, then render the rest, since it may use the decision."""
        try:
            if not is_rendered:
                context = self._complete(context)
            with self._turn(context, is_rendered=is_rendered, is_in_triggerer=is_in_triggerer) as turn:
                if not turn.is_due:
                    return
                if is_rendered:
                    context = {"dag": None}
                context["suppressed"] = turn.suppressed
                if not is_rendered:
                    self._render_fields(context, "recipients", "text", "sender", "rtisms_conn_id")
                self._render_fields(context, "suppressed_suffix")
                self._send(turn)
        except Exception as error:  # an alert must not fail the task that it is about
            self.log.error("The alert failed: %s", error)

    def _complete(self, context: Any) -> Any:
        """Return the context with ``var``, which Airflow gives to no deadline alert, and with the arguments."""
        if "var" not in context:  # without it, the numbers would be in the arguments of the alert, which Airflow stores
            context = {**context, "var": {"value": _Variables(), "json": _Variables(deserialize_json=True)}}
        self._update_context(context)
        return context

    def _render_fields(self, context: Any, *names: str) -> None:
        """Render some arguments. ``render_template_fields`` of Airflow 2 leaves a template that renders to nothing."""
        environment = self.get_template_env(dag=context.get("dag"))
        for name in names:
            self.template_ext = type(self).template_ext if name == "text" else ()
            setattr(self, name, self.render_template(getattr(self, name), context, environment))

    def _turn(self, context: Any, *, is_rendered: bool, is_in_triggerer: bool) -> AbstractContextManager[Turn]:
        """Return whether the alert is due. Whatever goes wrong with the key, it is."""
        if self.at_most_every is None:
            return nullcontext(Turn())
        try:
            if not is_rendered:
                self._render_fields(context, "dedup_key")
            if self.dedup_key in (None, ""):
                raise ValueError("it is empty")
            limit = AlertLimit(_VariableStore(), str(self.dedup_key), self.at_most_every, self.only_after)
        except Exception as error:
            self.log.warning("dedup_key cannot be used, so this alert is sent: %s", error)
            return nullcontext(Turn())
        if not (is_in_triggerer or "dag" in context or "ti" in context):
            # There is no access in Airflow 3.2, and 3.3 refuses it, after 17 s on a busy machine.
            self.log.warning("A callback in an executor cannot use Variables, so this alert is sent despite dedup_key")
            return nullcontext(Turn())
        return limit.turn()

    def _send(self, turn: Turn) -> None:
        from airflow_provider_rtisms.api.values.arguments import name_some, plural
        from airflow_provider_rtisms.api.values.text import SmsText

        # Half a surrogate pair, such as a byte that is no UTF-8, fits no charset; the alert goes out with "?" there. A
        # template of a native DAG may give no text, such as a dict; the alert goes out as in other DAGs.
        own, suffix = (
            str(text).encode("utf-8", "replace").decode()
            for text in (self.text, self.suppressed_suffix if turn.suppressed else "")
        )
        whole = SmsText.of(f"{own}{suffix}", self.charset)
        text = SmsText.of(own, whole.charset).cut(self.max_parts, suffix)
        if text != whole:
            self.log.warning("The text takes %d parts. It is cut to max_parts=%d", whole.parts, self.max_parts)
        with RtiSmsHook(self.rtisms_conn_id) as hook:  # closed, since the DAG processor and the triggerer run for days
            outbox = hook.get_outbox(
                recipients=self.recipients, text=text.characters, sender=self.sender, charset=text.charset
            )
            try:
                hook.send(outbox)
            finally:
                turn.may_have_sent = any(one.is_submitted or one.is_uncertain for one in outbox.submissions)
            outbox.check_submitted()
        ids = [one.submission_id for one in outbox.submissions if one.submission_id]
        self.log.info("Alert sent: %s (%s)", plural(len(ids), "message"), name_some(ids))


def _check_at_most_every(dedup_key: Any, at_most_every: Any) -> float | None:
    """Return the seconds of ``at_most_every``, or None if the notifier sends each alert."""
    if (dedup_key is None) != (at_most_every is None):
        raise RtiSmsInputError(
            "dedup_key and at_most_every need each other: give both, so that one SMS stands for many alerts, or none."
        )
    if at_most_every is None:
        return None
    seconds = check_seconds("at_most_every", at_most_every)
    if seconds > LONGEST_PERIOD:
        raise RtiSmsInputError(
            f"at_most_every is {seconds:.0f} seconds: use at most {LONGEST_PERIOD}, which is 30 days."
        )
    return seconds


@dataclass(frozen=True, slots=True)
class State:
    """
    What is remembered of the alerts of one key: neither recipients nor texts.

    :param alert: random name of the alert that sends, or that has sent last; empty if there is none.
    :param at: ISO 8601 time at which it began to send, or at which its SMS was sent.
    :param suppressed: number of alerts that were not sent and that no SMS has reported.
    :param counted: number of alerts towards ``only_after``; stored, as the next one, only if there are any.
    :param since: ISO 8601 time of the first one of them.
    """

    alert: str = ""
    at: str = _LONG_AGO
    is_sent: bool = False
    suppressed: int = 0
    counted: int = 0
    since: str = _LONG_AGO

    def covers(self, now: float, at_most_every: float) -> bool:
        """Return whether its SMS stands for an alert."""
        seconds = at_most_every if self.is_sent else min(at_most_every, LEASE)
        # The clocks of two machines differ.
        return self.alert != "" and abs(now - datetime.fromisoformat(self.at).timestamp()) < seconds

    def counting(self, now: float, at_most_every: float) -> State:
        """Return the state with one more alert towards ``only_after``; those that are too old no longer count."""
        is_recent = abs(now - datetime.fromisoformat(self.since).timestamp()) < at_most_every
        if self.counted and is_recent:
            return replace(self, counted=self.counted + 1)
        return replace(self, counted=1, since=_format(now))

    def to_json(self) -> str:
        """Return the state as it is stored."""
        fields = asdict(self)
        if not self.counted:
            del fields["counted"], fields["since"]
        return json.dumps({"version": VERSION, **fields}, separators=(",", ":"))

    @classmethod
    def from_json(cls, text: str) -> State:
        """Read what :meth:`to_json` wrote; in version 1, the number of alerts was in another Variable."""
        try:
            fields = json.loads(text)
            version = fields.pop("version")
            if version == 1:
                del fields["reported"]
            elif version != VERSION:
                raise ValueError("it has the form of another release")
            state = cls(**fields)
            if None in (datetime.fromisoformat(one).tzinfo for one in (state.at, state.since)):
                raise ValueError("a time without a time zone")
            return replace(state, alert=str(state.alert), suppressed=int(state.suppressed), counted=int(state.counted))
        except (TypeError, KeyError, AttributeError, OverflowError) as error:
            raise ValueError(f"{type(error).__name__}: {error}") from None


@dataclass(slots=True)
class Turn:
    """
    What becomes of one alert.

    :param suppressed: number of alerts before it that were not sent and that no SMS has reported.
    :param may_have_sent: whether its SMS was sent, or may have been. The sender sets it.
    :param alert: its name in the state; empty if there is no state.
    """

    is_due: bool = True
    suppressed: int = 0
    may_have_sent: bool = False
    alert: str = ""


@dataclass
class AlertLimit:
    """
    Send at most one SMS in some time for all alerts with the same ``dedup_key``, as far as Variables allow it.

    Everything fails open: if the state cannot be read or written, the alert is due, and a line in the log says why.
    """

    store: Any
    dedup_key: str
    at_most_every: float
    only_after: int = 1
    clock: Callable[[], float] = time.time
    sleep: Callable[[float], Any] = time.sleep
    name: str = field(init=False)

    def __post_init__(self) -> None:
        self.name = variable_name(self.dedup_key)

    @contextmanager
    def turn(self) -> Iterator[Turn]:
        """Decide whether an alert is due, and record what became of it."""
        turn = self._decide()
        try:
            yield turn
        finally:
            if turn.is_due and turn.alert:
                self._record(turn)

    def _decide(self) -> Turn:
        turn = Turn(alert=secrets.token_urlsafe(6))
        try:
            state = self._read()
            if self.at_most_every and not state.covers(self.clock(), self.at_most_every):
                if state.counting(self.clock(), self.at_most_every).counted < self.only_after:
                    return self._count(turn)
                state = self._claim(turn, state)
            if not self.at_most_every or state.alert == turn.alert:
                turn.suppressed = state.suppressed
            else:
                turn.is_due = False
                self._settle()  # alerts that come in the same moment are counted one after the other
                state = self._read()
                state = replace(state, suppressed=state.suppressed + 1)
                self._write(state)
                log.info(
                    "This alert is not sent, since another SMS stands for it. %s counts %d", self.name, state.suppressed
                )
        except Exception as error:
            log.warning(
                "The Variable %s, which limits alerts, cannot be used, so this alert is sent: %s", self.name, error
            )
            return Turn()
        return turn

    def _count(self, turn: Turn) -> Turn:
        """Count an alert towards ``only_after``."""
        self._settle()
        state = self._read().counting(self.clock(), self.at_most_every)
        state = replace(state, suppressed=state.suppressed + 1)
        self._write(state)
        log.info("This alert is not sent. It is number %d of the %d that it takes", state.counted, self.only_after)
        turn.is_due = False
        return turn

    def _claim(self, turn: Turn, state: State) -> State:
        """Claim the SMS, and return the state a moment later: with this alert, or with another one that sends."""
        with suppress(Exception):  # Airflow 2 fails if two processes create a Variable at the same time
            self._write(State(turn.alert, self._now(), suppressed=state.suppressed))
        self._settle()
        state = self._read()
        if state.alert != turn.alert and not state.covers(self.clock(), self.at_most_every):
            raise RuntimeError("it does not hold what this process has written.")
        return state

    def _record(self, turn: Turn) -> None:
        """Record that the SMS was sent, or count the alert and let the next one send."""
        try:
            done = State(turn.alert, self._now(), is_sent=True)
            if not turn.may_have_sent:
                done = State(counted=self.only_after - 1, since=self._now())
            more = -turn.suppressed if turn.may_have_sent else 1
            state = self._read()
            for _ in range(2):
                self._write(replace(done, suppressed=max(0, state.suppressed + more)))
                self._settle()
                state = self._read()
                if state.is_sent or state.alert != turn.alert:
                    break  # an alert that was counted at the same moment has not overwritten it
        except Exception as error:
            log.warning("The Variable %s, which limits alerts, cannot be written: %s", self.name, error)

    def _settle(self) -> None:
        self.sleep(random.uniform(SETTLE, 2 * SETTLE))  # noqa: S311

    def _now(self) -> str:
        return _format(self.clock())

    def _write(self, state: State) -> None:
        self.store.set(self.name, state.to_json())

    def _read(self) -> State:
        text = self.store.get(self.name)
        try:
            return State() if text is None else State.from_json(text)
        except ValueError as error:
            log.warning(
                "The Variable %s, which limits alerts, is not readable, so it begins again: %s", self.name, error
            )
            return State()


def _format(moment: float) -> str:
    return datetime.fromtimestamp(moment, UTC).isoformat(timespec="milliseconds")


def variable_name(dedup_key: str) -> str:
    """Return the name of the Variable of a ``dedup_key``: a digest, since the key may hold anything."""
    return f"rtisms_alert_{hashlib.sha256(dedup_key.encode('utf-8', 'surrogatepass')).hexdigest()[:16]}"


class _VariableStore:
    def get(self, name: str) -> str | None:
        return Variable.get(name, None)  # type: ignore[no-any-return]

    def set(self, name: str, text: str) -> None:
        Variable.set(name, text, "Alerts of one dedup_key of RtiSmsNotifier. You can delete it: the next alert is sent")


class _Variables:
    """``var.value`` and ``var.json`` of templates."""

    def __init__(self, *, deserialize_json: bool = False) -> None:
        self._deserialize_json = deserialize_json

    def __getattr__(self, key: str) -> Any:
        return Variable.get(key, deserialize_json=self._deserialize_json)

    def get(self, key: str, default: Any = None) -> Any:
        """Return a Variable, or the default if there is none."""
        return Variable.get(key, default, deserialize_json=self._deserialize_json)
