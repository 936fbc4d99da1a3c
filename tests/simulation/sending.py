"""Histories of senders: one task, its attempts on one store, and what everybody was sent in the end."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from airflow_provider_rtisms.api.errors import RtiSmsConfigError, RtiSmsError
from airflow_provider_rtisms.api.models import SendOutcome, Submission
from airflow_provider_rtisms.api.values.recipients import Recipient
from airflow_provider_rtisms.api.values.secret import Secret
from airflow_provider_rtisms.api.values.text import Charset, SmsText
from airflow_provider_rtisms.sending.journal import SendJournal
from airflow_provider_rtisms.sending.messages import Message
from airflow_provider_rtisms.sending.outbox import Outbox
from tests.simulation.client import SimulatedClient, check_clients
from tests.simulation.fetching import check_nothing_left, make_masker, make_settings
from tests.simulation.network import Network
from tests.simulation.world import World, current_process
from tests.virtual_time import now

#: Digests and salts of the journal; one may hold the digits of a number by chance.
_DIGEST = re.compile(r"[0-9a-f]{32}")


class StoreError(Exception):
    """The store cannot be reached."""


class Store:
    """The state store of a task: it outlives processes, and may fail before or after it has kept a value."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._values: dict[str, Any] = {}
        self.failure_probability = world.rng.choice((0.0, 0.0, 0.05, 0.3))
        self.death_probability = world.rng.choice((0.0, 0.0, 0.05, 0.2))

    def get(self, key: str, default: Any = None) -> Any:
        return self._values.get(key, default)

    def set(self, key: str, value: Any) -> None:
        world, process = self._world, current_process.get()
        world.check_text(_DIGEST.sub("", repr(value)), "the store")
        steps = [lambda: self._values.__setitem__(key, value)]
        if world.rng.random() < self.failure_probability:
            world.faults["store fails"] += 1
            steps.insert(world.rng.randrange(2), self._fail)
        if process is not None and world.rng.random() < self.death_probability:
            steps.insert(world.rng.randrange(len(steps) + 1), process.kill)
        world.trace(f"store {key} = {value} ({len(steps)} steps)")
        for step in steps:
            if process is None or not process.is_dead:
                step()

    def _fail(self) -> None:
        raise StoreError("the store cannot be reached")


async def send_history(world: World, network: Network) -> None:
    """Let a task send, in several attempts, then once more while nothing fails."""
    rng, api = world.rng, network.api
    task = _Task(world, network)
    secrets = [api.secrets[0], api.new_client_secret()] if rng.random() < 0.3 else api.secrets[:]
    for number in range(rng.randint(1, 5)):
        secret = rng.choice(secrets)
        if secret != api.secrets[0]:  # the journal does not recognize who was texted with another client secret
            task.is_rotated = True
            network.settled.clear()
        api.secrets = [secret]
        if rng.random() < 0.1:
            task.on_uncertain = rng.choice(("fail", "resend", "skip"))
        if not await task.run_attempt(number, api.secrets[0]):
            break
    network.calm_down()
    world.cancel_probability = world.kill_probability = 0.0
    task.store.failure_probability = task.store.death_probability = 0.0
    await task.run_attempt(9, api.secrets[0], is_calm=True)
    await check_clients(world)


class _Task:
    """A task that sends messages."""

    def __init__(self, world: World, network: Network) -> None:
        rng = world.rng
        self.world = world
        self.network = network
        self.store = Store(world)
        self.messages = _make_messages(world)
        self.on_uncertain = rng.choice(("fail", "resend", "skip"))
        self.may_resend = self.is_rotated = False
        self.chunk_size = rng.randint(1, 4)
        self.window = rng.choice((None, self.chunk_size, 2 * self.chunk_size, 3 * self.chunk_size))
        self.limits = make_settings(world, "unused")

    @property
    def has_errors(self) -> bool:
        """Whether anything has happened that may leave messages uncertain."""
        world = self.world
        return self.is_rotated or world.kills + world.cancellations + world.faults.total() > 0

    async def run_attempt(self, number: int, secret: str, is_calm: bool = False) -> bool:
        """Run one attempt in a process of its own. Return whether another one follows."""
        self.may_resend |= self.on_uncertain == "resend"
        self.world.trace(f"attempt {number}, on_uncertain={self.on_uncertain}")
        outboxes: list[Outbox] = []
        process, task = await self.world.run_process(self._send(secret, outboxes), f"attempt {number}")
        await check_nothing_left(self.world)
        self._check_repetitions()
        if process.is_dead:
            return True
        if outboxes:
            self._check_report(outboxes[0].submissions, is_calm)
            self.world.check_text(outboxes[0].summary(), "the summary")
        if task.cancelled():
            return True
        error = task.exception()
        if error is None:
            self._check_report(task.result(), is_calm)
            return False
        self.world.check_error(error, (RtiSmsError, StoreError))
        if isinstance(error, RtiSmsConfigError):
            self.world.fail(f"the journal cannot be read: {error}")
        if isinstance(error, RtiSmsError) and outboxes:
            self._check_report(error.submissions, is_calm)
        return True

    async def _send(self, secret: str, outboxes: list[Outbox]) -> list[Submission]:
        journal = SendJournal(self.store, Secret(secret), clock=now)
        outbox = Outbox(
            self.messages,
            "96000",
            journal,
            on_uncertain=self.on_uncertain,  # type: ignore[arg-type]
            chunk_size=self.chunk_size,
            window=self.window,
        )
        outboxes.append(outbox)
        settings = make_settings(self.world, secret)
        async with SimulatedClient(settings, on_secret=make_masker(self.world)) as client:
            return await outbox.send(client)

    def _check_repetitions(self) -> None:
        most = 2 if self.may_resend else 1
        for message in self.messages:
            if (times := self._accepted(message)) > most:
                self.world.fail(f"{message.reference or message.recipient} was texted {times} times, not {most}")

    def _check_report(self, submissions: Sequence[Submission], is_calm: bool) -> None:
        if len(submissions) < len(self.messages):
            self.world.fail(f"the report names {len(submissions)} of {len(self.messages)} messages")
        for message, submission in zip(self.messages, submissions, strict=False):
            accepted = self._accepted(message)
            name = message.reference or str(message.recipient)
            if submission.is_submitted and not self.is_rotated:
                self.network.settled.add(_key(message))
            match submission.outcome:
                case SendOutcome.SUBMITTED if not accepted:
                    self.world.fail(f"{name} is reported as submitted, but was never texted")
                case SendOutcome.REFUSED | SendOutcome.NOT_SENT if accepted:
                    self.world.fail(f"{name} is reported as {submission.outcome}, but was texted")
                case SendOutcome.NOT_SENT if is_calm:
                    self.world.fail(f"{name} is not sent, although nothing failed")
                case SendOutcome.UNCERTAIN if not self.has_errors:
                    self.world.fail(f"{name} is uncertain, although nothing failed")

    def _accepted(self, message: Message) -> int:
        return self.network.api.accepted[_key(message)]


def _key(message: Message) -> tuple[str, str]:
    return message.recipient.get_secret_value(), message.text.characters


def _make_messages(world: World) -> list[Message]:
    rng = world.rng
    texts = []
    for _ in range(rng.randint(1, 3)):
        characters = "Pin " + world.new_secret("") + rng.choice(("", "", " ñandú ☎"))
        texts.append(SmsText.of(characters))
        world.protect(SmsText(characters, Charset.UCS_2).encoded, length=24)
    has_references = rng.random() < 0.5
    numbers = [f"+5695{''.join(rng.choices('56789', k=7))}" for _ in range(rng.randint(1, 12))]
    for number in numbers:
        world.protect(number[1:-3])
    messages: dict[Any, Message] = {}
    for position, number in enumerate(numbers * 2 if has_references else numbers):
        text = rng.choice(texts)
        reference = f"order-{position}" if has_references else None
        messages.setdefault((number, text.characters), Message(Recipient(number), text, reference))
    world.check_text(repr(list(messages.values())), "the repr of messages")
    return list(messages.values())
