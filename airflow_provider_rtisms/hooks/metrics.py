"""
Metrics: what the package reports to Airflow's Stats, and so to StatsD, Datadog or OpenTelemetry. Spans, by
OpenTelemetry.

Source: docs/operations.md, "Metrics" and "Traces".
"""

from __future__ import annotations

import logging
import math
import re
import sys
import time
from collections import Counter
from contextlib import asynccontextmanager, contextmanager
from functools import cache, lru_cache, partial
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, cast

from airflow_provider_rtisms import __version__
from airflow_provider_rtisms.api.retrying import Stats, span_of, tolerating_tracer
from airflow_provider_rtisms.compat import AirflowException, conf, get_current_context
from airflow_provider_rtisms.compat import Stats as AirflowStats
from airflow_provider_rtisms.hooks.connection import in_thread

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator, Mapping


log = logging.getLogger(__name__)


class Metric(NamedTuple):
    """
    A metric of this package.

    A tag has few values, and never one that a person or the API has chosen, except for ``conn_id``: a deployment has
    few Connections, and each is an account with a balance of its own.
    """

    name: str
    kind: Literal["counter", "timer", "gauge"]
    tags: tuple[str, ...]


METRICS = (
    Metric("rtisms.requests", "counter", ("conn_id", "call", "status")),
    Metric("rtisms.retries", "counter", ("conn_id", "call")),
    Metric("rtisms.throttled", "counter", ("conn_id", "call")),
    Metric("rtisms.tokens", "counter", ("conn_id",)),
    Metric("rtisms.call_duration", "timer", ("conn_id", "call", "outcome")),
    Metric("rtisms.messages", "counter", ("conn_id", "outcome")),
    Metric("rtisms.bulk_records", "counter", ("conn_id",)),
    Metric("rtisms.delivery_duration", "timer", ("conn_id",)),
    Metric("rtisms.balance", "gauge", ("conn_id",)),
    Metric("rtisms.waits_open", "gauge", ("conn_id", "hostname")),
)
_METRICS = {metric.name.removeprefix("rtisms."): metric for metric in METRICS}
#: Characters of a tag, and of a name with its tags: Airflow drops a metric of more than 250.
MOST_CHARACTERS, MOST_IN_NAME = 64, 250
#: Seconds after which the number of open waits is reported again while it is unchanged.
REFRESH_INTERVAL = 10.0


def stats_for(conn_id: str) -> Stats:
    """
    Return the counters for a client. They report to Airflow's Stats if the deployment has metrics, and bring a tracer
    if it has traces.
    """
    return Stats(report=partial(_report, conn_id, _task_tags()) if is_on() else None, tracer=_tracer())


def _task_tags() -> tuple[tuple[str, str], ...]:
    """Return the tags that Airflow gives to the metrics of the task that runs; none outside of a task."""
    try:
        ti: Any = get_current_context()["ti"]
        tags = getattr(ti, "stats_tags", None) or {"dag_id": ti.dag_id, "task_id": ti.task_id}  # not in 3.0 to 3.2
        return tuple(
            (name, tags[name]) for name in ("team_name", "dag_id", "task_id") if isinstance(tags.get(name), str)
        )
    except (RuntimeError, AirflowException, LookupError, AttributeError):  # no task runs
        return ()


def _tracer() -> Any:
    """
    Return the tracer of this process; None if it has none.

    Airflow 3.2 and later give workers and triggerers a global tracer provider, and so does OpenTelemetry's
    auto-instrumentation. Who makes one has imported OpenTelemetry, and where nobody has, this does not either.
    """
    if "opentelemetry.trace" not in sys.modules:
        return None
    from opentelemetry import trace

    with tolerating_tracer():
        if not isinstance(trace.get_tracer_provider(), trace.ProxyTracerProvider):  # which stands for none
            return trace.get_tracer("airflow_provider_rtisms", __version__)
    return None


@contextmanager
def span(name: str, conn_id: str) -> Iterator[Callable[[Callable[[], Mapping[str, Any]]], None]]:
    """
    Make a span of what takes many calls, where the process traces.

    :return: a function that adds attributes to the span. It asks for them only if there is a span. They are words and
        counts, and name nobody.
    """
    tracer = _tracer()
    if tracer is None:
        yield lambda get_attributes: None
        return
    with span_of(tracer, name, attributes={"rtisms.conn_id": conn_id}) as note:
        yield lambda get_attributes: note(get_attributes())


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
    Report how many deferred waits of a Connection are open in this process.

    :param is_refresh: whether the number is unchanged. Then it is reported at most every :data:`REFRESH_INTERVAL`
        seconds, for servers that forget old values or that were restarted.
    """
    now = time.monotonic()
    if is_on() and not (is_refresh and now - _reported_at.get(conn_id, -math.inf) < REFRESH_INTERVAL):
        _reported_at[conn_id] = now
        _report(conn_id, (), "waits_open", _open_waits[conn_id], _hostname())


def _report(conn_id: str, task: tuple[tuple[str, str], ...], event: str, value: float, *tags: str) -> None:
    """Pass a value to Airflow's Stats. A failure is logged once, since it must not fail a call."""
    metric = _METRICS[event]
    try:
        _prepare()
        # A gauge is of the account. With tags of tasks it would go on to show what another task has read long ago.
        name, named_tags = _label(metric, (conn_id, *tags), () if metric.kind == "gauge" else task)
        if metric.kind == "counter":
            AirflowStats.incr(name, int(value), tags=named_tags)
        elif metric.kind == "timer":
            AirflowStats.timing(name, value, tags=named_tags)
        else:
            AirflowStats.gauge(name, value, tags=named_tags)
    except Exception as error:
        _warn_once(f"{type(error).__name__}: {error}")


@lru_cache(maxsize=1000)
def _label(metric: Metric, values: tuple[str, ...], task: tuple[tuple[str, str], ...]) -> tuple[str, dict[str, str]]:
    """
    Return the name and the tags of a value. Plain StatsD has no tags, so their values are parts of the name.

    The tags of the task are left out there, and where the name would be too long with them.
    """
    clean = [_clean(value[:MOST_CHARACTERS]) for value in values]
    if not _has_tags():
        return ".".join([metric.name, *(value.replace(".", "_") for value in clean)]), {}
    tags = dict(zip(metric.tags, clean, strict=True))
    all_tags = {**tags, **{name: _clean(value) for name, value in task}}
    length = len(metric.name) + sum(len(f",{name}={value}") for name, value in all_tags.items())
    return metric.name, all_tags if length <= MOST_IN_NAME else tags


def _clean(value: str) -> str:
    return re.sub(r"[^\w.-]", "_", value, flags=re.ASCII)


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
    timer = AirflowStats.timer("rtisms.call_duration")
    # From Airflow 3.2 on, each process has to initialize Stats. Airflow does that in the processes of tasks. Elsewhere
    # it happens as a side effect, or not at all, as in the triggerer of 3.2. Then Stats drops all values, and its timer
    # belongs to no backend.
    has_backend = type(timer).__name__ != "Timer" or getattr(timer, "real_timer", None) is not None
    if not has_backend and hasattr(AirflowStats, "initialize"):
        _initialize()
        AirflowStats.timer("rtisms.call_duration")


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
