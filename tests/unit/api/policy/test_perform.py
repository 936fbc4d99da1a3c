"""One call as a generator, driven by hand: which effects come in which order, and what a failure means."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from typing import Any

import pytest

from airflow_provider_rtisms.api import errors
from airflow_provider_rtisms.api.policy import retry
from airflow_provider_rtisms.api.policy.effects import Acquire, Effect, MaskSecret, Send, Sleep, Throttled, WaitFor
from airflow_provider_rtisms.api.policy.perform import (
    TransportError,
    describe_break,
    perform,
)
from airflow_provider_rtisms.api.policy.token_cache import Token, TokenCache
from airflow_provider_rtisms.api.protocol import endpoints
from airflow_provider_rtisms.api.protocol.endpoints import TokenGrant
from airflow_provider_rtisms.api.protocol.request import Call, HttpResponse
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
    Drive a flow as a client does, with a clock of its own.

    :param script: what each Send gets, in turn: a response, or an error that is thrown in.
    :param throttled: what each Throttled gets: whether the limiter slows all requests down.
    :param held: seconds for which the limiter holds each request back.
    :param took: seconds that each request takes.
    """

    def __init__(
        self, *script: HttpResponse | BaseException, throttled: bool = False, held: float = 0.0, took: float = 0.0
    ) -> None:
        self.now = 5000.0
        self.effects: list[Effect] = []
        self._script: Iterator[HttpResponse | BaseException] = iter(script)
        self._throttled = throttled
        self._held = held
        self._took = took
        self.tokens = TokenCache(lambda: self.now)

    def perform(self, call: Call[Any] = SMS, **settings: Any) -> Any:
        values = {"client_id": "me", "client_secret": SECRET, "proxy": SETTINGS.proxy, **settings}
        flow = perform(call, ApiSettings(**values), self.tokens, lambda: self.now)
        try:
            effect = next(flow)
            while True:
                self.effects.append(effect)
                try:
                    result = self._do(effect)
                except BaseException as error:
                    effect = flow.throw(error)
                else:
                    effect = flow.send(result)
        except StopIteration as end:
            return end.value

    def _do(self, effect: Effect) -> Any:
        match effect:
            case Acquire():
                self.now += self._held
            case Sleep(seconds):
                self.now += seconds
            case Throttled():
                return self._throttled
            case Send():
                self.now += self._took
                reply = next(self._script)
                if isinstance(reply, BaseException):
                    raise reply
                return reply
        return None

    @property
    def names(self) -> str:
        """The effects in short."""
        return " ".join(type(effect).__name__ for effect in self.effects)

    @property
    def sent(self) -> list[str]:
        """Path and token of each request."""
        requests = [effect.request for effect in self.effects if isinstance(effect, Send)]
        return [
            f"{one.path} {one.headers['Authorization'].rpartition('-')[2]}"
            if "Authorization" in one.headers
            else "auth"
            for one in requests
        ]

    @property
    def pauses(self) -> list[float]:
        return [effect.seconds for effect in self.effects if isinstance(effect, Sleep)]


@pytest.fixture(autouse=True)
def longest_backoff(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let each pause be the longest that the jitter allows."""
    monkeypatch.setattr("random.uniform", lambda low, high: high)


class TestOrder:
    def test_the_first_call_gets_a_token_masks_it_and_then_sends(self) -> None:
        driver = Driver(grant(), DETAILS)
        assert driver.perform().status == "DELIVERED"
        assert driver.names == "Acquire Send MaskSecret Acquire Send"
        assert driver.sent == ["auth", "/api/sms/4193366853543393 1"]
        assert driver.effects[2] == MaskSecret(Secret("token-number-1"))

    def test_the_next_call_sends_at_once(self) -> None:
        driver = Driver(grant(), DETAILS, DETAILS)
        driver.perform()
        driver.effects.clear()
        driver.perform()
        assert driver.names == "Acquire Send"

    def test_a_call_that_may_not_be_repeated_uses_a_new_connection(self) -> None:
        driver = Driver(grant(), status(200, b"1"))
        driver.perform(ONCE)
        assert [one.request.on_new_connection for one in driver.effects if isinstance(one, Send)] == [False, True]

    def test_a_retry_sleeps_outside_of_the_limiter_and_asks_it_again(self) -> None:
        driver = Driver(grant(), status(503), DETAILS)
        driver.perform()
        assert driver.names == "Acquire Send MaskSecret Acquire Send Sleep Acquire Send"

    def test_another_error_of_the_transport_passes_through(self) -> None:
        with pytest.raises(KeyboardInterrupt):
            Driver(grant(), KeyboardInterrupt()).perform()


class TestRenewal:
    def test_a_401_gets_one_new_token_and_one_repetition(self, caplog: pytest.LogCaptureFixture) -> None:
        caplog.set_level(logging.INFO)
        driver = Driver(grant(1), status(401), grant(2), DETAILS)
        assert driver.perform().status == "DELIVERED"
        assert driver.sent == ["auth", "/api/sms/4193366853543393 1", "auth", "/api/sms/4193366853543393 2"]
        assert driver.pauses == []
        assert "get_sms 4193366853543393: the server refused the token (HTTP 401)" in caplog.text

    def test_a_second_401_is_final(self) -> None:
        driver = Driver(grant(1), status(401), grant(2), status(401))
        with pytest.raises(errors.RtiSmsTokenRefusedError, match="HTTP 401 twice") as caught:
            driver.perform()
        assert driver.sent[2:] == ["auth", "/api/sms/4193366853543393 2"]
        assert (caught.value.status, caught.value.call) == (401, "get_sms")
        assert caught.value.__suppress_context__

    def test_a_retry_after_another_error_gets_a_renewal_of_its_own(self) -> None:
        driver = Driver(grant(1), status(401), grant(2), status(503), status(401), grant(3), DETAILS)
        assert driver.perform().status == "DELIVERED"

    def test_a_stale_token_does_not_use_up_the_renewal(self) -> None:
        driver = Driver(grant(1), DETAILS, status(401), status(401), grant(3), DETAILS)
        driver.perform()
        driver.effects.clear()
        self._let_another_caller_renew_after_the_next_acquire(driver)
        assert driver.perform().status == "DELIVERED"
        assert [one.rpartition(" ")[2] for one in driver.sent] == ["1", "2", "auth", "3"]

    def test_more_than_ten_stale_tokens_are_final(self) -> None:
        driver = Driver(*[status(401)] * 20)
        numbers = iter(range(100))

        def obtain(authenticate: Any) -> Iterator[Effect]:
            yield from ()
            return Token(Secret(f"token-number-{next(numbers)}"), 1e9)  # type: ignore[return-value]

        driver.tokens.obtain = obtain  # type: ignore[method-assign, assignment]
        with pytest.raises(errors.RtiSmsTokenRefusedError):
            driver.perform()
        assert len(driver.sent) == 11

    @staticmethod
    def _let_another_caller_renew_after_the_next_acquire(driver: Driver) -> None:
        do = driver._do

        def do_and_renew(effect: Effect) -> Any:
            if isinstance(effect, Acquire):
                driver._do = do  # type: ignore[method-assign]
                first = driver.tokens._token
                assert first is not None
                driver.tokens.discard(first)
                flow = driver.tokens.obtain(lambda: _granted(2))
                for _ in flow:
                    pass
            return do(effect)

        driver._do = do_and_renew  # type: ignore[method-assign]


def _granted(number: int) -> Any:
    return TokenGrant(Secret(f"token-number-{number}"), 3600.0)
    yield


class TestThrottled:
    def test_a_429_that_slows_all_requests_down_is_no_attempt(self, caplog: pytest.LogCaptureFixture) -> None:
        caplog.set_level(logging.DEBUG)
        driver = Driver(grant(), *[status(429)] * 20, DETAILS, throttled=True)
        assert driver.perform(max_attempts=1).status == "DELIVERED"
        assert caplog.text.count("HTTP 429") == caplog.text.count("Repeating the request after the pause of all") == 20
        assert driver.names == "Acquire Send MaskSecret" + " Acquire Send Throttled" * 20 + " Acquire Send"

    def test_fifty_in_a_row_are_an_attempt(self) -> None:
        driver = Driver(grant(), *[status(429)] * 200, throttled=True)
        with pytest.raises(errors.RtiSmsRateLimitError):
            driver.perform(max_attempts=2)
        assert len(driver.sent) == 1 + 2 * 50

    def test_a_429_of_its_own_is_an_attempt(self) -> None:
        driver = Driver(grant(), *[status(429, Retry_After="7")] * 3, throttled=False)
        with pytest.raises(errors.RtiSmsRateLimitError, match=r"Gave up after 3 attempts in 14\.0 s"):
            driver.perform(max_attempts=3)
        assert driver.pauses == [7.0, 7.0]
        assert [one.retry_after for one in driver.effects if isinstance(one, Throttled)] == [7.0] * 3

    def test_a_429_at_auth_slows_all_requests_down_too(self) -> None:
        driver = Driver(status(429), grant(), DETAILS, throttled=True)
        driver.perform(max_attempts=1)
        assert driver.sent == ["auth", "auth", "/api/sms/4193366853543393 1"]


class TestTime:
    def test_time_that_the_limiter_holds_a_call_back_does_not_count(self) -> None:
        driver = Driver(grant(validity="999999"), *[status(503)] * 4, DETAILS, held=1000.0)
        assert driver.perform().status == "DELIVERED"

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
    @pytest.mark.parametrize(
        "reply",
        [
            LOST,
            TIMEOUT,
            status(500),
            status(502),
            status(503),
            status(504),
            status(302),
            status(418),
            status(200, b"<html>"),
            status(200, b"1", Content_Encoding="gzip"),
        ],
    )
    def test_a_call_that_may_not_be_repeated_is_uncertain(self, reply: HttpResponse | TransportError) -> None:
        driver = Driver(grant(), reply)
        with pytest.raises(errors.RtiSmsUncertainError, match="It is uncertain whether the server acted") as caught:
            driver.perform(ONCE)
        assert caught.value.call == "once"
        assert caught.value.status == (reply.status if isinstance(reply, HttpResponse) else None)
        assert driver.pauses == []

    @pytest.mark.parametrize("code", [400, 403, 404, 405, 406])
    def test_a_refusal_is_certain(self, code: int) -> None:
        with pytest.raises(errors.STATUS_ERRORS[code]):
            Driver(grant(), status(code)).perform(ONCE)

    @pytest.mark.parametrize("reply", [NO_CONNECTION, status(429)])
    def test_a_request_that_was_not_acted_on_is_repeated(self, reply: HttpResponse | TransportError) -> None:
        driver = Driver(grant(), reply, reply, status(200, b"1"))
        assert driver.perform(ONCE) == 1

    def test_a_call_without_a_token_is_certain(self) -> None:
        with pytest.raises(errors.RtiSmsConnectionLostError):
            Driver(LOST, LOST).perform(ONCE, max_attempts=2)

    def test_a_call_that_may_be_repeated_is_never_uncertain(self) -> None:
        with pytest.raises(errors.RtiSmsConnectionLostError):
            Driver(grant(), LOST, LOST).perform(max_attempts=2)

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

    @pytest.mark.parametrize("code", [400, 401])
    def test_wrong_credentials_are_final(self, code: int) -> None:
        driver = Driver(status(code))
        with pytest.raises(errors.RtiSmsAuthenticationError):
            driver.perform()

    def test_no_attempt_fails_silently(self, caplog: pytest.LogCaptureFixture) -> None:
        driver = Driver(grant(), LOST, NO_CONNECTION, DETAILS)
        driver.perform()
        lines = [one.getMessage() for one in caplog.records if one.name == retry.__name__]
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

    def test_the_secret_is_redacted_at_auth(self) -> None:
        failure = TransportError(errors.RtiSmsConnectError, "no connection could be made", self.DETAIL)
        with pytest.raises(errors.RtiSmsConnectError) as caught:
            Driver(failure).perform(max_attempts=1)
        assert SECRET not in str(caught.value)
        assert "pr0xy-password" not in str(caught.value)

    def test_the_response_is_shown_without_secrets(self) -> None:
        body = f"echo {SECRET} token-number-1".encode()
        with pytest.raises(errors.RtiSmsForbiddenError, match=r"with 'echo \*\*\* \*\*\*'"):
            Driver(grant(), status(403, body)).perform()


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


def test_a_transport_error_says_what_happened() -> None:
    error = TransportError(errors.RtiSmsTimeoutError, "what", "detail")
    assert (error.kind, error.what, error.detail) == (errors.RtiSmsTimeoutError, "what", "detail")
    assert error.args == (errors.RtiSmsTimeoutError, "what", "detail")
    assert TransportError(errors.RtiSmsTimeoutError, "what").args == (errors.RtiSmsTimeoutError, "what", "")


def test_a_call_that_waits_for_the_token_of_another_one_sends_it() -> None:
    tokens = TokenCache()
    leader = perform(SMS, SETTINGS, tokens)
    follower = perform(SMS, SETTINGS, tokens)
    assert isinstance(next(leader), Acquire)
    effect = next(follower)
    assert isinstance(effect, WaitFor)
    assert isinstance(leader.send(None), Send)
    assert isinstance(leader.send(grant()), MaskSecret)
    assert not effect.flight.is_complete
    assert isinstance(leader.send(None), Acquire)
    assert effect.flight.is_complete
    assert isinstance(follower.send(effect.flight.result), Acquire)
    sending = follower.send(None)
    assert isinstance(sending, Send)
    assert sending.request.headers["Authorization"] == "Bearer token-number-1"
