"""
Metrics: what the package reports to Airflow's Stats, and so to StatsD, Datadog or OpenTelemetry.

Source: docs/operations.md, "Metrics".
"""

from __future__ import annotations

import logging
import math
import re
import sys
import time
from collections import Counter
from contextlib import asynccontextmanager
from functools import cache, lru_cache
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, cast

from airflow.providers.common.compat.sdk import Stats as AirflowStats
from airflow.providers.common.compat.sdk import conf

from airflow_provider_rtisms.api.errors import RtiSmsError, RtiSmsTransientError, RtiSmsUncertainError
from airflow_provider_rtisms.api.models import SendOutcome
from airflow_provider_rtisms.api.protocol.endpoints import GET_BALANCE
from airflow_provider_rtisms.api.transport.stats import Stats
from airflow_provider_rtisms.hooks.event_loop import in_thread

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from airflow_provider_rtisms.api.protocol.request import Call

log = logging.getLogger(__name__)


class Metric(NamedTuple):
    """
    A metric of this package.

    :param name: its name, without the prefix of the deployment.
    :param kind: its type.
    :param tags: the names of its tags. A tag has few values, and never one that a person or the API has chosen, except
        for ``conn_id``. A deployment has few Connections, and each is an account with a balance of its own.
    """

    name: str
    kind: Literal["counter", "timer", "gauge"]
    tags: tuple[str, ...]


REQUESTS = Metric("rtisms.requests", "counter", ("conn_id", "call", "status"))
RETRIES = Metric("rtisms.retries", "counter", ("conn_id", "call"))
THROTTLED = Metric("rtisms.throttled", "counter", ("conn_id", "call"))
TOKENS = Metric("rtisms.tokens", "counter", ("conn_id",))
CALL_DURATION = Metric("rtisms.call_duration", "timer", ("conn_id", "call", "outcome"))
MESSAGES = Metric("rtisms.messages", "counter", ("conn_id", "outcome"))
BULK_RECORDS = Metric("rtisms.bulk_records", "counter", ("conn_id",))
DELIVERY_DURATION = Metric("rtisms.delivery_duration", "timer", ("conn_id",))
BALANCE = Metric("rtisms.balance", "gauge", ("conn_id",))
WAITS_OPEN = Metric("rtisms.waits_open", "gauge", ("conn_id", "hostname"))

METRICS = (
    REQUESTS,
    RETRIES,
    THROTTLED,
    TOKENS,
    CALL_DURATION,
    MESSAGES,
    BULK_RECORDS,
    DELIVERY_DURATION,
    BALANCE,
    WAITS_OPEN,
)
#: Characters of a tag. The name with its tags has to stay below the 250 that Airflow accepts.
MOST_CHARACTERS = 64
#: Seconds after which the number of open waits is reported again while it is unchanged.
REFRESH_INTERVAL = 10.0


class MetricStats(Stats):
    """
    Count as :class:`Stats` does, and report to Airflow's Stats.

    :param conn_id: the Connection of the client.
    """

    def __init__(self, conn_id: str) -> None:
        super().__init__()
        self._conn_id = conn_id

    def on_request(self, call: Call[Any], status: int | None) -> None:
        """Count a request by the class of its status."""
        super().on_request(call, status)
        _report(REQUESTS, 1, self._conn_id, call.name, _status_class(status))

    def on_retry(self, call: Call[Any]) -> None:
        """Count a request that is repeated."""
        super().on_retry(call)
        _report(RETRIES, 1, self._conn_id, call.name)

    def on_throttled(self, call: Call[Any]) -> None:
        """Count a response of 429."""
        super().on_throttled(call)
        _report(THROTTLED, 1, self._conn_id, call.name)

    def on_token(self) -> None:
        """Count a token."""
        super().on_token()
        _report(TOKENS, 1, self._conn_id)

    def on_call(self, call: Call[Any], seconds: float, outcome: Any) -> None:
        """Report how long a call took and how it ended, the messages that it sent, or the balance."""
        _report(CALL_DURATION, seconds * 1000, self._conn_id, call.name, _outcome(outcome))
        if call.messages:
            self._count_messages(call, outcome)
        elif call.name == GET_BALANCE and not isinstance(outcome, RtiSmsError):
            _report(BALANCE, float(outcome), self._conn_id)

    def on_records(self, count: int) -> None:
        """Count records of a bulk fetch."""
        _report(BULK_RECORDS, count, self._conn_id)

    def on_delivery(self, seconds: float) -> None:
        """Report how long the delivery of a message took."""
        _report(DELIVERY_DURATION, seconds * 1000, self._conn_id)

    def _count_messages(self, call: Call[Any], outcome: Any) -> None:
        if isinstance(outcome, RtiSmsUncertainError):
            _report(MESSAGES, call.messages, self._conn_id, SendOutcome.UNCERTAIN)
        elif not isinstance(outcome, RtiSmsError):
            for kind, count in Counter(submission.outcome for submission in outcome).items():
                _report(MESSAGES, count, self._conn_id, kind)


def stats_for(conn_id: str) -> Stats:
    """
    Return the counters for a client. They report to Airflow's Stats if the deployment has metrics.

    :param conn_id: the Connection of the client.
    """
    return MetricStats(conn_id) if is_on() else Stats()


@cache
def is_on() -> bool:
    """Return whether the deployment sends metrics anywhere."""
    return any(_is_set(name) for name in ("statsd_datadog_enabled", "statsd_on", "otel_on"))


async def prepare() -> None:
    """
    Make Airflow's Stats ready, in a thread. Do nothing if metrics are off.

    Its first use looks up a host name and reads files, which would block the event loop of a triggerer.
    """
    if is_on() and not _prepare_for_loop.cache_info().currsize:
        await in_thread(_prepare_for_loop)


#: How many deferred waits of each Connection are open in this process, and when that was reported last.
_open_waits: Counter[str] = Counter()
_reported_at: dict[str, float] = {}


@asynccontextmanager
async def open_wait(conn_id: str) -> AsyncIterator[None]:
    """
    Count a deferred wait as open.

    The gauge is absolute, so a triggerer that is killed and restarted reports the right number again.

    :param conn_id: the Connection of the wait.
    """
    await prepare()
    _open_waits[conn_id] += 1
    report_open_waits(conn_id)
    try:
        yield
    finally:
        _open_waits[conn_id] -= 1
        report_open_waits(conn_id)


def report_open_waits(conn_id: str, *, is_refresh: bool = False) -> None:
    """
    Report how many deferred waits of a Connection are open in this process. Do nothing if metrics are off.

    :param conn_id: the Connection.
    :param is_refresh: whether the number is unchanged. Then it is reported at most every :data:`REFRESH_INTERVAL`
        seconds, for servers that forget old values or that were restarted.
    """
    now = time.monotonic()
    if is_on() and not (is_refresh and now - _reported_at.get(conn_id, -math.inf) < REFRESH_INTERVAL):
        _reported_at[conn_id] = now
        _report(WAITS_OPEN, _open_waits[conn_id], conn_id, _hostname())


def _report(metric: Metric, value: float, *tags: str) -> None:
    """Pass a value to Airflow's Stats. A failure is logged once, since it must not fail a call."""
    try:
        _prepare()
        name, named_tags = _label(metric, tags)
        match metric.kind:
            case "counter":
                AirflowStats.incr(name, int(value), tags=named_tags)
            case "timer":
                AirflowStats.timing(name, value, tags=named_tags)
            case "gauge":
                AirflowStats.gauge(name, value, tags=named_tags)
    except Exception as error:
        _warn_once(f"{type(error).__name__}: {error}")


@lru_cache(maxsize=1000)
def _label(metric: Metric, values: tuple[str, ...]) -> tuple[str, dict[str, str]]:
    """
    Return the name and the tags under which a value is reported.

    Plain StatsD has no tags. There the values of the tags are parts of the name, as in Airflow's own metrics.
    """
    clean = [re.sub(r"[^\w.-]", "_", value[:MOST_CHARACTERS], flags=re.ASCII) for value in values]
    if _has_tags():
        return metric.name, dict(zip(metric.tags, clean, strict=True))
    return ".".join([metric.name, *(value.replace(".", "_") for value in clean)]), {}


@cache
def _has_tags() -> bool:
    """Return whether the deployment's metrics have tags. Airflow asks for Datadog first, then StatsD."""
    if _is_set("statsd_datadog_enabled"):
        return _is_set("statsd_datadog_metrics_tags", default=True)
    return _is_set("statsd_influxdb_enabled") if _is_set("statsd_on") else True


def _is_set(name: str, *, default: bool = False) -> bool:
    return bool(conf.getboolean("metrics", name, fallback=default))


@cache
def _prepare() -> None:
    """Make Airflow's Stats ready. It sends nothing."""
    # From Airflow 3.2 on, each process has to initialize Stats. Airflow does that in the processes of tasks. Elsewhere
    # it happens as a side effect, or not at all, as in the triggerer of 3.2. Then Stats drops all values.
    state = vars(sys.modules[AirflowStats.__module__])
    factory = state["_factory"] if "_factory" in state else getattr(AirflowStats, "factory", None)
    is_initialized = factory is not None and factory.__name__ != "NoStatsLogger"
    if not is_initialized and hasattr(AirflowStats, "initialize"):
        _initialize()
    AirflowStats.timer(CALL_DURATION.name)


@cache
def _prepare_for_loop() -> None:
    try:
        _prepare()
        _hostname()
    except Exception as error:
        _warn_once(f"{type(error).__name__}: {error}")


def _initialize() -> None:
    from airflow.sdk.observability.metrics.stats_utils import get_stats_factory

    legacy_names = conf.getboolean("metrics", "legacy_names_on", fallback=True)
    try:
        AirflowStats.initialize(factory=get_stats_factory(), export_legacy_names=legacy_names)
    except TypeError:  # Airflow 3.2
        initialize: Any = AirflowStats.initialize
        initialize(factory=cast("Any", get_stats_factory)(AirflowStats))


@cache
def _hostname() -> str:
    from airflow.utils.net import get_hostname

    return str(get_hostname())  # type: ignore[no-untyped-call]


@cache
def _warn_once(problem: str) -> None:
    log.warning("Metrics cannot be sent: %s. The calls to the API go on", problem)


def _status_class(status: int | None) -> str:
    if status is None:
        return "no_response"
    return f"{status // 100}xx" if 100 <= status < 600 else "other"


def _outcome(outcome: Any) -> str:
    if not isinstance(outcome, RtiSmsError):
        return "success"
    return "transient_error" if isinstance(outcome, RtiSmsTransientError) else "permanent_error"
