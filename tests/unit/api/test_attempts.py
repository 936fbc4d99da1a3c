"""What follows each failure of a call: a repetition, a new token, or an error; without a server and without waiting."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import tenacity

from airflow_provider_rtisms.api import calls as endpoints
from airflow_provider_rtisms.api import client as blocking
from airflow_provider_rtisms.api import errors, retrying
from airflow_provider_rtisms.api.auth import Token, TokenCache
from airflow_provider_rtisms.api.calls import Call, HttpRequest, HttpResponse, TransportError, describe_break
from airflow_provider_rtisms.api.client import RtiSmsClient
from airflow_provider_rtisms.api.retrying import Attempts, Stats, backoff, check_retry_args
from airflow_provider_rtisms.api.settings import ApiSettings
from airflow_provider_rtisms.api.values.secret import Secret

SECRET = "s3cret-of-client-1"
SMS = endpoints.get_sms("4193366853543393")
SEND = endpoints.send_sms(recipients=["+56900000000"], text="hola", sender="96000")
#: A call whose response may be shown, and that must not be sent twice.
ONCE = Call(name="once", method="POST", path="/api/once", parse=lambda content: content, body=b"{}", idempotent=False)

DETAILS = HttpResponse(200, {}, b'{"info": {"status": {"status": "DELIVERED"}}}')
LOST = TransportError(errors.RtiSmsConnectionLostError, "the connection broke")
NO_CONNECTION = TransportError(errors.RtiSmsConnectError, "no connection could be made")


def status(code: int, body: bytes = b"", **headers: str) -> HttpResponse:
    return HttpResponse(code, {name.replace("_", "-"): value for name, value in headers.items()}, body)


def grant(number: int = 1) -> HttpResponse:
    return status(200, json.dumps({"access_token": f"token-number-{number}", "validity_period": "3600"}).encode())


class Driver:
    """
    A client whose responses are scripted, with a clock of its own.

    :param script: what each request gets, in turn: a response, a status, or an error that is raised.
    :param took: seconds that each request takes.
    """

    def __init__(self, *script: HttpResponse | int | BaseException, took: float = 0.0) -> None:
        self.now = 5000.0
        self.requests: list[HttpRequest] = []
        self.pauses: list[float] = []
        self.stats = Stats()
        self._script: Iterator[HttpResponse | int | BaseException] = iter(script)
        self._took = took

    def perform(self, call: Call[Any] = SMS, retry_args: Any = None, max_attempts: int = 5) -> Any:
        proxy = "http://user:pr0xy-password@proxy.example:3128"
        settings = ApiSettings(client_id="me", client_secret=SECRET, proxy=proxy, max_attempts=max_attempts)
        client = RtiSmsClient(settings, TokenCache(lambda: self.now), None, self.stats, retry_args)
        client.send = self._send  # type: ignore[method-assign]
        clock = SimpleNamespace(monotonic=lambda: self.now, sleep=self._sleep)
        with pytest.MonkeyPatch.context() as patch:
            for module in (retrying, blocking):
                patch.setattr(module, "time", clock)
            return client.perform(call)

    def _sleep(self, seconds: float) -> None:
        self.now += seconds
        if seconds:
            self.pauses.append(seconds)

    def _send(self, request: HttpRequest) -> HttpResponse:
        self.now += self._took
        self.requests.append(request)
        reply = next(self._script)
        if isinstance(reply, BaseException):
            raise reply
        return status(reply) if isinstance(reply, int) else reply

    @property
    def sent(self) -> list[str]:
        """The number of the token of each request; "auth" of one for a token."""
        return [one.headers.get("Authorization", "auth").rpartition("-")[2] for one in self.requests]


@pytest.fixture(autouse=True)
def longest_backoff(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let each pause be the longest that the jitter allows."""
    monkeypatch.setattr("random.uniform", lambda low, high: high)


def test_an_error_that_is_not_ours_passes_through() -> None:
    with pytest.raises(KeyboardInterrupt):
        Driver(grant(), KeyboardInterrupt()).perform()


def test_a_pause_doubles_from_half_a_second_to_half_a_minute() -> None:
    assert [backoff(failures) for failures in range(1, 10)] == [0.5, 1, 2, 4, 8, 16, 30, 30, 30]
    assert (backoff(10_000), backoff(7, 3.0)) == (30, 30)


@pytest.mark.parametrize(
    ("retry_after", "pause"), [(None, 0), (0.0, 0), (7.5, 7.5), (120.0, 120), (120.1, 120), (1e9, 120)]
)
def test_a_pause_may_be_nothing_but_retry_after_up_to_two_minutes(
    retry_after: float | None, pause: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("random.uniform", lambda low, high: low)
    assert [backoff(failures, retry_after) for failures in range(1, 10)] == [pause] * 9


def test_a_401_gets_one_new_token_and_one_repetition_without_a_pause(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    driver = Driver(grant(1), 401, grant(2), DETAILS)
    assert driver.perform().status == "DELIVERED"
    assert (driver.sent, driver.pauses) == (["auth", "1", "auth", "2"], [])
    assert "get_sms 4193366853543393: the server refused the token (HTTP 401)" in caplog.text


REFUSED = errors.RtiSmsTokenExpiredError("HTTP 401.", call="get_sms", status=401)
THROTTLED = errors.RtiSmsRateLimitError("HTTP 429.", call="get_sms", status=429)
UNAVAILABLE = errors.RtiSmsServerError("HTTP 503.", call="get_sms", status=503)


class TestFreeRepetitions:
    """A 401, and a 429 after which all requests slow down together, are no attempts."""

    @staticmethod
    def run(*script: Any, max_attempts: int = 5, held: float = 0.0) -> tuple[list[Any], Any]:
        """
        Run the attempts of a call whose outcomes are scripted: results, or errors that are raised.

        :param held: seconds for which the limiter holds each attempt back.
        :return: the tokens that the attempts used, and the result or the error of the call.
        """
        settings = ApiSettings(client_id="me", client_secret=SECRET, max_attempts=max_attempts)
        tokens, outcomes, used, clock = TokenCache(), iter(script), [], SimpleNamespace(now=0.0, held=0.0)
        attempts = Attempts(SMS, settings, tokens, Stats(), lambda: clock.now - clock.held, {})

        def attempt(state: Attempts) -> Any:
            clock.now += held
            clock.held += held
            state.token = tokens.get(lambda: endpoints.TokenGrant(Secret(f"token-{len(used)}"), 3600.0))
            state.is_throttled_together = True
            used.append(state.token)
            outcome = next(outcomes)
            if isinstance(outcome, Callable):  # type: ignore[arg-type]
                outcome = outcome(tokens, state.token)
            if isinstance(outcome, BaseException):
                raise outcome
            return outcome

        sleep = SimpleNamespace(sleep=lambda seconds: setattr(clock, "now", clock.now + seconds))
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(retrying, "time", sleep)
            try:
                return used, attempts.run(attempt)
            except errors.RtiSmsError as error:
                return used, error

    def test_a_stale_token_does_not_use_up_the_renewal(self) -> None:
        def refuse_an_old_one(tokens: TokenCache, token: Token) -> Any:
            tokens.discard(token)
            tokens.get(lambda: endpoints.TokenGrant(Secret("of another caller"), 3600.0))
            return REFUSED

        used, result = self.run(refuse_an_old_one, REFUSED, "done")
        assert result == "done"
        assert [token.value.get_secret_value() for token in used] == ["token-0", "of another caller", "token-2"]

    def test_more_than_thirty_revoked_tokens_are_final(self) -> None:
        def revoke(tokens: TokenCache, token: Token) -> Any:
            tokens.on_accepted()  # for another caller
            return REFUSED

        used, error = self.run(*[revoke] * 40)
        assert isinstance(error, errors.RtiSmsTokenRefusedError)
        assert len(used) == 31

    def test_a_429_is_no_attempt(self, caplog: pytest.LogCaptureFixture) -> None:
        caplog.set_level(logging.DEBUG)
        used, result = self.run(*[THROTTLED] * 20, "done", max_attempts=1)
        assert (len(used), result) == (21, "done")
        assert caplog.text.count("HTTP 429") == caplog.text.count("Repeating the request after the pause of all") == 20

    def test_fifty_429_in_a_row_are_an_attempt(self) -> None:
        used, error = self.run(*[THROTTLED] * 200, max_attempts=2)
        assert isinstance(error, errors.RtiSmsRateLimitError)
        assert len(used) == 2 * 50

    def test_they_do_not_count_between_attempts(self) -> None:
        script = (THROTTLED, UNAVAILABLE, REFUSED, THROTTLED, UNAVAILABLE, REFUSED, UNAVAILABLE)
        used, error = self.run(*script, max_attempts=3)
        assert "Gave up after 3 attempts" in str(error)
        assert len(used) == 7

    def test_time_that_the_limiter_holds_a_call_back_does_not_count(self) -> None:
        assert self.run(*[UNAVAILABLE] * 4, "done", held=1000.0)[1] == "done"


def test_a_429_of_a_blocking_client_is_an_attempt() -> None:
    driver = Driver(grant(), *[status(429, Retry_After="7")] * 3)
    with pytest.raises(errors.RtiSmsRateLimitError, match=r"Gave up after 3 attempts in 14\.0 s"):
        driver.perform(max_attempts=3)
    assert (driver.pauses, driver.stats.throttled) == ([7.0, 7.0], 3)


@pytest.mark.parametrize(
    ("driver", "match"),
    [
        (Driver(grant(), 503, 503, 503, took=100.0), r"Gave up after 2 attempts in 300\.5 s"),
        (Driver(503, grant(), 503, took=110.0), "^get_sms"),
    ],
    ids=["of requests", "to get a token"],
)
def test_time_counts(driver: Driver, match: str) -> None:
    with pytest.raises(errors.RtiSmsServerError, match=match):
        driver.perform(max_attempts=50)
    assert driver.pauses == [0.5]


@pytest.mark.parametrize("reply", [NO_CONNECTION, 429])
def test_a_request_that_was_not_acted_on_is_repeated(reply: Any) -> None:
    assert Driver(grant(), reply, reply, status(200, b"1")).perform(ONCE) == 1


def test_an_uncertain_send_keeps_its_submissions() -> None:
    two = b'{"submissions": [{"status": "submitted", "submissionId": "1"}, {"status": "unknown_error"}]}'
    with pytest.raises(errors.RtiSmsUncertainError) as caught:
        Driver(grant(), status(200, two)).perform(SEND)
    assert [one.submission_id for one in caught.value.submissions] == ["1", None]
    assert caught.value.__suppress_context__


def test_the_call_for_a_token_has_attempts_of_its_own() -> None:
    assert Driver(503, 503, grant(), 503, 503, DETAILS).perform(max_attempts=3).status == "DELIVERED"
    driver = Driver(503, 503, 503)
    with pytest.raises(errors.RtiSmsServerError, match=r"^authenticate:"):
        driver.perform(max_attempts=3)
    assert driver.sent == ["auth"] * 3


def test_no_attempt_fails_silently(caplog: pytest.LogCaptureFixture) -> None:
    Driver(grant(), LOST, NO_CONNECTION, DETAILS).perform()
    first, second = [one.getMessage() for one in caplog.records if one.name == retrying.__name__]
    assert first.startswith("get_sms 4193366853543393: the connection broke.")
    assert first.endswith("Attempt 1 of 5 failed; the next one starts in 0.5 s")
    assert second.endswith("Attempt 2 of 5 failed; the next one starts in 1.0 s")


def test_an_error_shows_no_secret() -> None:
    failure = TransportError(errors.RtiSmsConnectError, f"no connection: token-number-1 {SECRET}", "Check it.")
    for call in (SMS, ONCE, SEND):
        with pytest.raises(errors.RtiSmsConnectError) as caught:
            Driver(grant(), failure).perform(call, max_attempts=1)
        assert str(caught.value).startswith(f"{call}: no connection: *** ***. Check it.")


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (ConnectionResetError(104, "Connection reset by peer"), "ConnectionResetError: Connection reset by peer"),
        (OSError("words of a server"), "OSError"),
        (ValueError("words of a server"), "ValueError"),
    ],
)
def test_a_break_is_described_without_the_words_of_a_server(error: Exception, text: str) -> None:
    assert describe_break(error) == text


class TestRetryArgs:
    """What a user of the clients and of the hook may replace."""

    @pytest.mark.parametrize(
        ("retry_args", "script"),
        [
            ({"stop": tenacity.stop_after_attempt(7)}, [503] * 6),
            ({"stop": tenacity.stop_after_attempt(2)}, [401, grant(2), 503]),  # a 401 is no attempt
            ({"retry": tenacity.retry_if_exception_type(errors.RtiSmsNotFoundError)}, [404]),
            ({"retry": tenacity.retry_always}, []),  # a result is not repeated
        ],
    )
    def test_stop_and_retry_decide_what_is_repeated(self, retry_args: Any, script: list[Any]) -> None:
        driver = Driver(grant(), *script, DETAILS)
        assert driver.perform(retry_args=retry_args).status == "DELIVERED"
        assert len(driver.sent) == 2 + len(script)

    @pytest.mark.parametrize(
        ("retry_args", "requests"),
        [
            ({"stop": tenacity.stop_after_attempt(7)}, 7),
            ({"retry": tenacity.retry_if_exception_type(errors.RtiSmsTimeoutError)}, 1),
        ],
    )
    def test_stop_and_retry_may_give_up_earlier_or_later(self, retry_args: Any, requests: int) -> None:
        driver = Driver(grant(), *[503] * 9)
        with pytest.raises(errors.RtiSmsServerError, match=r"^get_sms \d+: the server returned HTTP 503"):
            driver.perform(retry_args=retry_args)
        assert len(driver.sent) == 1 + requests

    @pytest.mark.parametrize("reply", [LOST, 500, status(200, b"<html>")])
    def test_retry_repeats_no_send_on_which_the_server_may_have_acted(self, reply: Any) -> None:
        driver = Driver(grant(), reply, status(200, b"1"))
        with pytest.raises(errors.RtiSmsUncertainError):
            driver.perform(ONCE, retry_args={"retry": tenacity.retry_always})
        assert len(driver.sent) == 2

    def test_wait_and_before_sleep_replace_our_pause_and_our_line(self, caplog: pytest.LogCaptureFixture) -> None:
        failed: list[int] = []
        driver = Driver(grant(), 503, 503, DETAILS)
        before_sleep = lambda state: failed.append(state.attempt_number)  # noqa: E731
        driver.perform(retry_args={"wait": tenacity.wait_fixed(11), "before_sleep": before_sleep})
        assert (driver.pauses, failed, driver.stats.retries) == ([11.0, 11.0], [1, 2], 2)
        assert "failed; the next one" not in caplog.text

    def test_our_line_names_no_number_of_attempts_that_does_not_hold(self, caplog: pytest.LogCaptureFixture) -> None:
        Driver(grant(), 503, DETAILS).perform(retry_args={"stop": tenacity.stop_never})
        assert "Attempt 1 failed; the next one starts in 0.5 s" in caplog.text

    @pytest.mark.parametrize(
        ("value", "problem"),
        [
            (3, "retry_args is a value of type int"),
            ({"sleep": print}, "not one of: stop, wait, retry, before_sleep"),
            ({"stop": 3}, "stop is a value of type int"),
            ({"wait": None}, "wait is None"),
        ],
    )
    def test_anything_else_is_refused_and_named(self, value: Any, problem: str) -> None:
        with pytest.raises(errors.RtiSmsInputError, match=problem):
            check_retry_args(value)
