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
SETTINGS = ApiSettings(client_id="me", client_secret=SECRET, proxy="http://user:pr0xy-password@proxy.example:3128")
SMS = endpoints.get_sms("4193366853543393")
SEND = endpoints.send_sms(recipients=["+56900000000"], text="hola", sender="96000")
#: A call whose response may be shown, and that must not be sent twice.
ONCE = Call(name="once", method="POST", path="/api/once", parse=lambda content: content, body=b"{}", idempotent=False)

DETAILS = HttpResponse(200, {}, b'{"info": {"status": {"status": "DELIVERED"}}}')
LOST = TransportError(errors.RtiSmsConnectionLostError, "the connection broke")
NO_CONNECTION = TransportError(errors.RtiSmsConnectError, "no connection could be made")
TIMEOUT = TransportError(errors.RtiSmsTimeoutError, "no complete response within 30 s")


def status(code: int, body: bytes = b"", **headers: str) -> HttpResponse:
    return HttpResponse(code, {name.replace("_", "-"): value for name, value in headers.items()}, body)


def grant(number: int = 1, validity: str = "3600") -> HttpResponse:
    return status(200, json.dumps({"access_token": f"token-number-{number}", "validity_period": validity}).encode())


class Driver:
    """
    A client whose responses are scripted, with a clock of its own.

    :param script: what each request gets, in turn: a response, or an error that is raised.
    :param took: seconds that each request takes.
    """

    def __init__(self, *script: HttpResponse | BaseException, took: float = 0.0) -> None:
        self.now = 5000.0
        self.requests: list[HttpRequest] = []
        self.pauses: list[float] = []
        self.masked: list[str] = []
        self.stats = Stats()
        self._script: Iterator[HttpResponse | BaseException] = iter(script)
        self._took = took
        self.tokens = TokenCache(lambda: self.now)

    def perform(self, call: Call[Any] = SMS, retry_args: Any = None, **settings: Any) -> Any:
        values = {"client_id": "me", "client_secret": SECRET, "proxy": SETTINGS.proxy, **settings}
        client = RtiSmsClient(ApiSettings(**values), self.tokens, self.masked.append, self.stats, retry_args)
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
        return reply

    @property
    def sent(self) -> list[str]:
        """Path and token of each request."""
        return [
            f"{one.path} {one.headers['Authorization'].rpartition('-')[2]}"
            if "Authorization" in one.headers
            else "auth"
            for one in self.requests
        ]


@pytest.fixture(autouse=True)
def longest_backoff(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let each pause be the longest that the jitter allows."""
    monkeypatch.setattr("random.uniform", lambda low, high: high)


def test_an_error_that_is_not_ours_passes_through() -> None:
    with pytest.raises(KeyboardInterrupt):
        Driver(grant(), KeyboardInterrupt()).perform()


class TestBackoff:
    def test_doubles_from_half_a_second_to_half_a_minute(self) -> None:
        assert [backoff(failures) for failures in range(1, 10)] == [0.5, 1, 2, 4, 8, 16, 30, 30, 30]
        assert (backoff(10_000), backoff(7, 3.0)) == (30, 30)

    @pytest.mark.parametrize(
        ("retry_after", "pause"), [(None, 0), (0.0, 0), (7.5, 7.5), (120.0, 120), (120.1, 120), (1e9, 120)]
    )
    def test_may_be_nothing_but_retry_after_up_to_two_minutes(
        self, retry_after: float | None, pause: float, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("random.uniform", lambda low, high: low)
        assert [backoff(failures, retry_after) for failures in range(1, 10)] == [pause] * 9


class TestRenewal:
    def test_a_401_gets_one_new_token_and_one_repetition(self, caplog: pytest.LogCaptureFixture) -> None:
        caplog.set_level(logging.INFO)
        driver = Driver(grant(1), status(401), grant(2), DETAILS)
        assert driver.perform().status == "DELIVERED"
        assert driver.sent == ["auth", "/api/sms/4193366853543393 1", "auth", "/api/sms/4193366853543393 2"]
        assert driver.pauses == []
        assert "get_sms 4193366853543393: the server refused the token (HTTP 401)" in caplog.text


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

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            retrying, "time", SimpleNamespace(sleep=lambda seconds: setattr(clock, "now", clock.now + seconds))
        )
        try:
            return used, attempts.run(attempt)
        except errors.RtiSmsError as error:
            return used, error


REFUSED = errors.RtiSmsTokenExpiredError("HTTP 401.", call="get_sms", status=401)
THROTTLED = errors.RtiSmsRateLimitError("HTTP 429.", call="get_sms", status=429)
UNAVAILABLE = errors.RtiSmsServerError("HTTP 503.", call="get_sms", status=503)


class TestFreeRepetitions:
    """A 401, and a 429 after which all requests slow down together, are no attempts."""

    def test_a_stale_token_does_not_use_up_the_renewal(self) -> None:
        def refuse_an_old_one(tokens: TokenCache, token: Token) -> Any:
            tokens.discard(token)
            tokens.get(lambda: endpoints.TokenGrant(Secret("of another caller"), 3600.0))
            return REFUSED

        used, result = run(refuse_an_old_one, REFUSED, "done")
        assert result == "done"
        assert [token.value.get_secret_value() for token in used] == ["token-0", "of another caller", "token-2"]

    def test_more_than_thirty_revoked_tokens_are_final(self) -> None:
        def revoke(tokens: TokenCache, token: Token) -> Any:
            tokens.on_accepted()  # for another caller
            return REFUSED

        used, error = run(*[revoke] * 40)
        assert isinstance(error, errors.RtiSmsTokenRefusedError)
        assert len(used) == 31

    def test_a_429_is_no_attempt(self, caplog: pytest.LogCaptureFixture) -> None:
        caplog.set_level(logging.DEBUG)
        used, result = run(*[THROTTLED] * 20, "done", max_attempts=1)
        assert (len(used), result) == (21, "done")
        assert caplog.text.count("HTTP 429") == caplog.text.count("Repeating the request after the pause of all") == 20

    def test_fifty_in_a_row_are_an_attempt(self) -> None:
        used, error = run(*[THROTTLED] * 200, max_attempts=2)
        assert isinstance(error, errors.RtiSmsRateLimitError)
        assert len(used) == 2 * 50

    def test_they_do_not_count_between_attempts(self) -> None:
        used, error = run(THROTTLED, UNAVAILABLE, REFUSED, THROTTLED, UNAVAILABLE, REFUSED, UNAVAILABLE, max_attempts=3)
        assert "Gave up after 3 attempts" in str(error)
        assert len(used) == 7

    def test_time_that_the_limiter_holds_a_call_back_does_not_count(self) -> None:
        assert run(*[UNAVAILABLE] * 4, "done", held=1000.0)[1] == "done"


class TestThrottled:
    def test_a_429_of_a_blocking_client_is_an_attempt(self) -> None:
        driver = Driver(grant(), *[status(429, Retry_After="7")] * 3)
        with pytest.raises(errors.RtiSmsRateLimitError, match=r"Gave up after 3 attempts in 14\.0 s"):
            driver.perform(max_attempts=3)
        assert driver.pauses == [7.0, 7.0]
        assert driver.stats.throttled == 3


class TestTime:
    def test_time_that_requests_take_counts(self) -> None:
        driver = Driver(grant(), *[status(503)] * 4, took=100.0)
        with pytest.raises(errors.RtiSmsServerError, match=r"Gave up after 2 attempts in 300\.5 s"):
            driver.perform(max_attempts=50)
        assert driver.pauses == [0.5]

    def test_time_to_get_a_token_counts(self) -> None:
        driver = Driver(status(503), grant(), status(503), took=110.0)
        with pytest.raises(errors.RtiSmsServerError, match=r"^get_sms"):
            driver.perform()
        assert driver.sent == ["auth", "auth", "/api/sms/4193366853543393 1"]


class TestUncertain:
    @pytest.mark.parametrize("code", [400, 403, 404, 405, 406])
    def test_a_refusal_is_certain(self, code: int) -> None:
        with pytest.raises(errors.STATUS_ERRORS[code]):
            Driver(grant(), status(code)).perform(ONCE)

    @pytest.mark.parametrize("reply", [NO_CONNECTION, status(429)])
    def test_a_request_that_was_not_acted_on_is_repeated(self, reply: HttpResponse | TransportError) -> None:
        driver = Driver(grant(), reply, reply, status(200, b"1"))
        assert driver.perform(ONCE) == 1

    def test_subject_and_submissions_are_kept(self) -> None:
        two = b'{"submissions": [{"status": "submitted", "submissionId": "1"}, {"status": "unknown_error"}]}'
        with pytest.raises(errors.RtiSmsUncertainError) as caught:
            Driver(grant(), status(200, two)).perform(SEND)
        assert [one.submission_id for one in caught.value.submissions] == ["1", None]
        assert caught.value.subject is None or "recipients" in caught.value.subject
        assert caught.value.__suppress_context__


class TestAttempts:
    def test_the_call_for_a_token_has_attempts_of_its_own(self) -> None:
        driver = Driver(status(503), status(503), grant(), status(503), status(503), DETAILS)
        assert driver.perform(max_attempts=3).status == "DELIVERED"

    def test_its_failure_is_not_an_attempt_of_the_call(self) -> None:
        driver = Driver(*[status(503)] * 3)
        with pytest.raises(errors.RtiSmsServerError, match=r"^authenticate:"):
            driver.perform(max_attempts=3)
        assert driver.sent == ["auth"] * 3

    def test_no_attempt_fails_silently(self, caplog: pytest.LogCaptureFixture) -> None:
        driver = Driver(grant(), LOST, NO_CONNECTION, DETAILS)
        driver.perform()
        lines = [one.getMessage() for one in caplog.records if one.name == retrying.__name__]
        assert len(lines) == 2
        assert lines[0].startswith("get_sms 4193366853543393: the connection broke.")
        assert lines[0].endswith("Attempt 1 of 5 failed; the next one starts in 0.5 s")
        assert lines[1].endswith("Attempt 2 of 5 failed; the next one starts in 1.0 s")


class TestRedaction:
    DETAIL = f"the library says: token-number-1 {SECRET} pr0xy-password"

    @pytest.mark.parametrize("call", [SMS, ONCE])
    def test_the_words_of_the_library_are_shown_without_secrets(self, call: Call[Any]) -> None:
        failure = TransportError(errors.RtiSmsConnectError, "no connection could be made", self.DETAIL)
        with pytest.raises(errors.RtiSmsConnectError) as caught:
            Driver(grant(), failure).perform(call, max_attempts=1)
        assert f"{call}: no connection could be made (the library says: *** *** ***)" in str(caught.value)

    def test_they_are_not_shown_where_the_response_is_confidential(self) -> None:
        failure = TransportError(errors.RtiSmsConnectionLostError, "the connection broke", self.DETAIL)
        with pytest.raises(errors.RtiSmsUncertainError) as caught:
            Driver(grant(), failure).perform(SEND)
        assert "the library says" not in str(caught.value)

    def test_they_are_shown_where_no_response_can_be_in_them(self) -> None:
        failure = TransportError(errors.RtiSmsConnectError, "no connection could be made", "Name or service not known")
        with pytest.raises(errors.RtiSmsConnectError, match=r"\(Name or service not known\)"):
            Driver(grant(), failure).perform(SEND, max_attempts=1)

    def test_no_parentheses_where_the_library_says_nothing(self) -> None:
        with pytest.raises(errors.RtiSmsConnectError, match=r"no connection could be made\.?$"):
            Driver(NO_CONNECTION).perform(max_attempts=1)


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

    def test_stop(self) -> None:
        driver = Driver(grant(), *[status(503)] * 9)
        with pytest.raises(errors.RtiSmsServerError, match="Gave up after 7 attempts"):
            driver.perform(retry_args={"stop": tenacity.stop_after_attempt(7)})
        assert len(driver.sent) == 1 + 7

    def test_stop_does_not_count_a_401(self) -> None:
        driver = Driver(grant(1), status(401), grant(2), status(503), DETAILS)
        assert driver.perform(retry_args={"stop": tenacity.stop_after_attempt(2)}).status == "DELIVERED"

    def test_wait(self) -> None:
        driver = Driver(grant(), status(503), status(503), DETAILS)
        driver.perform(retry_args={"wait": tenacity.wait_fixed(11)})
        assert driver.pauses == [11.0, 11.0]

    def test_retry_may_give_up_earlier(self) -> None:
        driver = Driver(grant(), status(503), DETAILS)
        with pytest.raises(errors.RtiSmsServerError):
            driver.perform(retry_args={"retry": tenacity.retry_if_exception_type(errors.RtiSmsTimeoutError)})
        assert len(driver.sent) == 2

    def test_retry_may_repeat_a_permanent_error(self) -> None:
        driver = Driver(grant(), status(404), DETAILS)
        retry = tenacity.retry_if_exception_type(errors.RtiSmsNotFoundError)
        assert driver.perform(retry_args={"retry": retry}).status == "DELIVERED"

    @pytest.mark.parametrize("reply", [LOST, status(500), status(200, b"<html>")])
    def test_retry_repeats_no_send_on_which_the_server_may_have_acted(self, reply: Any) -> None:
        driver = Driver(grant(), reply, status(200, b"1"))
        with pytest.raises(errors.RtiSmsUncertainError):
            driver.perform(ONCE, retry_args={"retry": tenacity.retry_always})
        assert len(driver.sent) == 2

    def test_retry_does_not_repeat_a_result(self) -> None:
        driver = Driver(grant(), DETAILS)
        driver.perform(retry_args={"retry": tenacity.retry_always})
        assert len(driver.sent) == 2

    def test_before_sleep_replaces_our_line(self, caplog: pytest.LogCaptureFixture) -> None:
        failed: list[int] = []
        driver = Driver(grant(), status(503), DETAILS)
        driver.perform(retry_args={"before_sleep": lambda state: failed.append(state.attempt_number)})
        assert failed == [1]
        assert "failed; the next one" not in caplog.text
        assert driver.stats.retries == 1

    def test_our_line_names_no_number_of_attempts_that_does_not_hold(self, caplog: pytest.LogCaptureFixture) -> None:
        Driver(grant(), status(503), DETAILS).perform(retry_args={"stop": tenacity.stop_never})
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
