"""The hook's way to send, as a task of one's own or a notebook uses it."""

from __future__ import annotations

import asyncio
import json
import signal
import subprocess
import sys
import threading

import pytest

from airflow_provider_rtisms.api.errors import RtiSmsInputError
from airflow_provider_rtisms.hooks.rtisms import RtiSmsHook
from airflow_provider_rtisms.sandbox import Sandbox
from tests.patience import wait_until


def test_each_distinct_recipient_has_its_response(rtisms_sandbox: Sandbox) -> None:
    recipients = ["+56900000100", "+56900000005", "+56 900 000 100", "+56900000101"]
    submissions = RtiSmsHook().send_sms(recipients=recipients, text="hola", sender="96000", chunk_size=2)
    assert [one.status for one in submissions] == ["submitted", "account_no_balance", "submitted"]
    assert rtisms_sandbox.state().requests["POST sms"] == 2


def test_a_bad_value_never_leaves_the_machine(rtisms_sandbox: Sandbox) -> None:
    with pytest.raises(RtiSmsInputError, match="max_parts"):
        RtiSmsHook().send_sms(recipients="+56900000100", text="a" * 500, sender="96000", max_parts=3)
    assert rtisms_sandbox.state().requests == {}


def test_an_interrupt_ends_a_send_on_a_running_loop(rtisms_sandbox: Sandbox) -> None:
    """As in a cell of a notebook, which a person stops and runs again."""

    class Interrupt(BaseException):
        pass

    def interrupt(*_: object) -> None:
        raise Interrupt

    async def cell() -> None:
        people = [f"+569000{number:05}" for number in range(5000)]
        RtiSmsHook().send_sms(recipients=people, text="hola", sender="96000", chunk_size=1)

    def interrupt_when_some_are_sent(main: int) -> None:
        wait_until(lambda: len(rtisms_sandbox.state().messages) > 1, what="the first messages")
        signal.pthread_kill(main, signal.SIGUSR1)

    before = signal.signal(signal.SIGUSR1, interrupt)
    try:
        threading.Thread(target=interrupt_when_some_are_sent, args=[threading.get_ident()], daemon=True).start()
        with pytest.raises(Interrupt):
            asyncio.run(cell())
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert not [one for one in threading.enumerate() if one.name == "rtisms-fetch"], "nothing is sent any more"
    assert len(rtisms_sandbox.state().messages) < 5000


GREENLETS = """
from gevent import monkey
monkey.patch_all()
import json
import gevent
from gevent.lock import BoundedSemaphore
from airflow_provider_rtisms.hooks.rtisms import RtiSmsHook

def outcome_of(number, turn=None):
    try:
        if turn is None:
            return hook.send_sms(recipients=f"+5690000012{number}", text="hola", sender="96000")[0].outcome
        with turn:
            return outcome_of(number)
    except Exception as error:
        return f"{type(error).__name__}: {error}"

def in_greenlets(function, *arguments):
    greenlets = [gevent.spawn(function, number, *arguments) for number in range(3)]
    gevent.joinall(greenlets)
    return [str(greenlet.value) for greenlet in greenlets]

with RtiSmsHook() as hook:
    at_once = in_greenlets(outcome_of)
    in_turn = in_greenlets(outcome_of, BoundedSemaphore(1))
    balances = in_greenlets(lambda number: hook.get_balance())
print(json.dumps([at_once, in_turn, balances]))
"""


def test_greenlets_send_in_turn_or_are_refused_with_words(rtisms_sandbox: Sandbox) -> None:
    """gevent's greenlets are no threads: one event loop is for all of them."""
    pytest.importorskip("gevent")
    done = subprocess.run([sys.executable, "-c", GREENLETS], capture_output=True, text=True, check=True)
    at_once, in_turn, balances = json.loads(done.stdout.splitlines()[-1])
    assert at_once[0] == "submitted"
    for outcome in at_once[1:]:
        assert outcome.startswith("RtiSmsConfigError: Another greenlet of gevent sends or fetches already")
    assert in_turn == ["submitted"] * 3
    assert len(balances) == 3
    assert len(rtisms_sandbox.state().messages) == 4
    assert "never awaited" not in done.stdout + done.stderr
