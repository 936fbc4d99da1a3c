"""Signals that raise exceptions in the middle of a call, as task timeouts do, and processes that fork."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from airflow_provider_rtisms.api.aio import AsyncRtiSmsClient
from airflow_provider_rtisms.api.auth import TokenCache
from airflow_provider_rtisms.api.client import RtiSmsClient
from tests.hostile import Exchange, details, grant, message, response, until
from tests.patience import PATIENCE, wait_until
from tests.unit.api.conftest import settings_for
from tests.unit.conftest import Serve

pytestmark = pytest.mark.usefixtures("quick_retries")


class Interrupt(BaseException):
    """What a signal handler raises, as Airflow's does for a task timeout."""


@contextmanager
def interrupts(rng: random.Random) -> Iterator[Callable[[Callable[[], Any]], bool]]:
    """
    Interrupt the main thread at random times.

    :return: does some work; returns whether a signal interrupted it. SIGALRM belongs to pytest-timeout.
    """
    main, armed, due = threading.get_ident(), threading.Event(), threading.Event()
    is_over = False

    def handle(*_: object) -> None:
        if armed.is_set():
            armed.clear()
            raise Interrupt

    def interrupt() -> None:
        while due.wait() and not is_over:
            due.clear()
            time.sleep(rng.random() * rng.choice([0.0005, 0.003, 0.01]))
            signal.pthread_kill(main, signal.SIGUSR1)

    def do(work: Callable[[], Any]) -> bool:
        try:
            armed.set()
            due.set()
            work()
            armed.clear()
        except Interrupt:
            return True
        return False

    before = signal.signal(signal.SIGUSR1, handle)
    thread = threading.Thread(target=interrupt, daemon=True)
    thread.start()
    try:
        yield do
    finally:
        armed.clear()
        is_over = True
        due.set()
        thread.join()
        signal.signal(signal.SIGUSR1, before)


class TestInterrupts:
    @pytest.mark.parametrize("validity", ["3600", "0"], ids=["one token", "a token a call"])
    @pytest.mark.parametrize("seed", [1, 2])
    def test_leave_the_client_usable_for_all_threads(self, serve: Serve, validity: str, seed: int) -> None:
        server = serve(details(), auth=[grant(validity_period=validity)])
        client = RtiSmsClient(settings_for(server, max_concurrency=2, timeout=PATIENCE))
        is_over = threading.Event()
        done = [0] * 3

        def work(position: int) -> None:
            while not is_over.wait(0.001):  # without a pause, three threads keep the main one from its turn
                client.get_sms("1")
                done[position] += 1

        threads = [threading.Thread(target=work, args=(position,), daemon=True) for position in range(3)]
        for thread in threads:
            thread.start()
        with interrupts(random.Random(seed)) as do:
            hits = 0
            while hits < 50:  # not a number of calls: how many are hit depends on the machine
                hits += do(lambda: client.get_sms("1"))
        client.get_sms("1")
        before = list(done)
        wait_until(lambda: all(now > then + 2 for now, then in zip(done, before, strict=True)), "calls of each thread")
        is_over.set()
        for thread in threads:
            thread.join()

    def test_of_the_leader_do_not_keep_the_same_thread_waiting(self, serve: Serve) -> None:
        """The first exception is still being handled, so its traceback keeps the frames of the interrupted call."""
        interrupts = iter([Interrupt()])

        def on_secret(_: str) -> None:
            for interrupt in interrupts:
                raise interrupt

        client = RtiSmsClient(settings_for(serve(details())), on_secret=on_secret)
        try:
            client.get_sms("1")
        except Interrupt:
            assert client.get_sms("1").status == "DELIVERED"
        assert next(interrupts, None) is None


@pytest.mark.parametrize("path", ["/api/auth", "/api/balance"])
def test_a_call_of_a_signal_handler_does_not_wait_for_the_call_that_it_interrupts(serve: Serve, path: str) -> None:
    """As on_kill of Airflow 2: it runs on top of the frames that it interrupts, in the same thread."""

    async def interrupt_and_respond(exchange: Exchange) -> None:
        count = len(exchange.server.requests)
        signal.pthread_kill(threading.main_thread().ident, signal.SIGUSR1)  # type: ignore[arg-type]
        await until(lambda: len(exchange.server.requests) > count)
        await asyncio.sleep(0.1)
        await (grant() if exchange.request.is_grant else response({"balance": "1"}))(exchange)

    fine = response({"balance": "1"})
    auth = [interrupt_and_respond, grant()] if path == "/api/auth" else [grant()]
    server = serve(*([fine] if path == "/api/auth" else [interrupt_and_respond, fine]), auth=auth)
    results: list[Any] = []
    before = signal.signal(signal.SIGUSR1, lambda *_: results.append(client.get_balance()))
    try:
        with RtiSmsClient(settings_for(server, max_concurrency=1, timeout=PATIENCE)) as client:
            results.append(client.get_balance())
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert results == [1, 1]


def in_child(work: Callable[[], Any]) -> str:
    """Fork, do some work in the child, and return what it returned or the error that it raised."""
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.alarm(int(PATIENCE))  # a child that hangs does not outlive its test
        try:
            try:
                said = str(work())
            except BaseException as error:
                said = f"{type(error).__name__}: {error}"
            os.write(write, said.encode())
        finally:
            os._exit(0)
    os.close(write)
    said = b""
    while chunk := os.read(read, 65536):
        said += chunk
    os.close(read)
    os.waitpid(pid, 0)
    return said.decode()


async def own_id(exchange: Exchange) -> None:
    """Respond slowly, and each connection with its own number, so that mixed responses show."""
    await asyncio.sleep(0.002)
    submission_id = exchange.request.target.rpartition("/")[2]
    await exchange.write(message({"id": submission_id, "info": {"status": {"status": f"S{submission_id}"}}}))


@pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork.*:DeprecationWarning")
class TestFork:
    def test_parent_and_child_use_sockets_of_their_own(self, serve: Serve) -> None:
        server = serve(own_id)
        with RtiSmsClient(settings_for(server, max_attempts=1)) as client:
            client.get_sms("1")

            def many(first: int) -> str:
                ids = [str(one) for one in range(first, first + 50)]
                return "fine" if all(client.get_sms(one).status == f"S{one}" for one in ids) else "mixed"

            said: list[str] = []
            child = threading.Thread(target=lambda: said.append(in_child(lambda: many(1000))))
            child.start()
            assert many(2000) == "fine"
            child.join()
            assert said == ["fine"]
            assert many(3000) == "fine"

    def test_while_another_thread_gets_a_token_with_the_only_permit(self, serve: Serve) -> None:
        is_asked, may_respond = threading.Event(), threading.Event()

        async def slow_grant(exchange: Exchange) -> None:
            is_asked.set()
            await asyncio.to_thread(may_respond.wait, PATIENCE)
            await grant()(exchange)

        server = serve(own_id, auth=[slow_grant, grant()])
        client = RtiSmsClient(settings_for(server, timeout=PATIENCE, max_concurrency=1))
        leader = threading.Thread(target=lambda: client.get_sms("1"))
        leader.start()
        assert is_asked.wait(PATIENCE)
        assert in_child(lambda: client.get_sms("7").status) == "S7"
        may_respond.set()
        leader.join(PATIENCE)
        assert not leader.is_alive()
        assert client.get_sms("8").status == "S8"

    def test_a_token_cache_of_the_parent_serves_an_asyncio_client_of_the_child(self, serve: Serve) -> None:
        server, tokens = serve(own_id), TokenCache()

        async def ask(submission_id: str) -> str | None:
            async with AsyncRtiSmsClient(settings_for(server), tokens) as client:
                return (await client.get_sms(submission_id)).status

        asyncio.run(ask("1"))
        assert in_child(lambda: asyncio.run(ask("7"))) == "S7"
        assert len(server.grants) == 1


def test_an_asyncio_client_is_not_used_on_two_loops(serve: Serve) -> None:
    client = AsyncRtiSmsClient(settings_for(serve(own_id)))

    async def first() -> None:
        await client.open()
        await client.get_sms("1")

    asyncio.run(first())
    with pytest.raises(RuntimeError, match="another process or event loop"):
        asyncio.run(client.get_sms("2"))
