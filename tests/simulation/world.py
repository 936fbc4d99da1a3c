"""What one history consists of: a loop, a source of random choices, processes, an API, and what went wrong."""

from __future__ import annotations

import asyncio
import contextvars
import random
from collections import Counter
from collections.abc import Callable, Coroutine
from typing import Any

from airflow_provider_rtisms.api.errors import RtiSmsError
from tests.virtual_time import VirtualTimeLoop

#: A history with more steps than this never ends.
MAX_STEPS = 50_000
#: Virtual seconds in which a cancelled task has to end.
CANCELLATION_TIME = 5.0
#: Characters of a secret in a row that nothing may show. The package itself accepts 7 as a coincidence.
SHOWN_CHARACTERS = 8

current_process: contextvars.ContextVar[Process | None] = contextvars.ContextVar("current_process", default=None)


class Process:
    """
    What a kill ends: tasks, requests that have not left, and the way to the store.

    A dead process runs its tasks to their end, since a coroutine cannot vanish. But nothing that they do has an effect.

    :param world: the history.
    """

    def __init__(self, world: World) -> None:
        self.world = world
        self.is_dead = False
        self.tasks: list[asyncio.Task[Any]] = []
        #: Functions that run in threads.
        self.threads = 0

    def kill(self) -> None:
        """End the process between two steps."""
        if not self.is_dead:
            self.is_dead = True
            self.world.kills += 1
            self.world.trace("kill")
            for task in self.tasks:
                task.cancel()


class SimulatedTask(asyncio.Task[Any]):
    """A task with a hash that is the same in every run, since asyncio keeps tasks in sets."""

    number = 0

    def __hash__(self) -> int:
        return self.number


class SimulationLoop(VirtualTimeLoop):
    """A virtual-time loop that asks its world before every step who is cancelled or killed."""

    def __init__(self, world: World) -> None:
        super().__init__()
        self.world = world
        self.set_exception_handler(world.on_loop_problem)
        self.set_task_factory(world.make_task)

    def _run_once(self) -> None:
        self.world.on_step()
        super()._run_once()  # type: ignore[misc]

    def run_in_executor(self, executor: Any, func: Callable[..., Any], *args: Any) -> asyncio.Future[Any]:  # type: ignore[override]
        """Call a function as a thread does: some time later, and to its end even if nobody waits any more."""
        world, process = self.world, current_process.get()
        future: asyncio.Future[Any] = self.create_future()

        def deliver(result: Any, error: BaseException | None) -> None:
            if not future.done():
                future.set_result(result) if error is None else future.set_exception(error)

        def work() -> None:
            result = error = None
            if process is not None:
                process.threads -= 1
            if future.cancelled() and world.rng.random() < 0.5:
                return  # the thread had not begun
            if process is None or not process.is_dead:
                try:
                    result = func(*args)
                except Exception as problem:
                    error = problem
            self.call_later(world.latency(), deliver, result, error)

        if process is not None:
            process.threads += 1
        self.call_later(world.latency(), work)
        return future


class World:
    """
    One history.

    :param seed: decides everything.
    :param is_traced: whether to keep a line for everything that happens.
    """

    def __init__(self, seed: int, is_traced: bool = False) -> None:
        self.rng = random.Random(seed)
        self.failures: list[str] = []
        self.lines: list[str] | None = [] if is_traced else None
        self.faults: Counter[str] = Counter()
        self.steps = self.cancellations = self.kills = 0
        self.clients: list[Any] = []
        self.open_sessions = 0
        #: Tokens that were masked in logs before use.
        self.masked: set[str] = set()
        #: POST /auth under way, by token cache.
        self.refreshes: Counter[int] = Counter()
        self._needles: list[str] = []
        self._tasks = 0
        self._victims: list[asyncio.Task[Any]] = []
        self._cancelled: dict[asyncio.Task[Any], float] = {}
        self._killable: list[Process] = []
        self.cancel_probability = self.rng.choice((0.0, 0.002, 0.01, 0.05))
        self.kill_probability = self.rng.choice((0.0, 0.002, 0.01, 0.03))
        self.latencies = self.rng.choice(((0.0,), (0.0, 0.01, 0.1), (0.0, 0.05, 0.05, 0.5, 2.0)))
        self.loop = SimulationLoop(self)

    # --- What happens ------------------------------------------------------------------------------

    def latency(self) -> float:
        """Return a random time in seconds; often the same as another one, so that things coincide."""
        return self.rng.choice(self.latencies)

    def fail(self, what: str) -> None:
        """Note that something which must always hold did not."""
        self.trace(f"FAILURE {what}")
        self.failures.append(what)

    def trace(self, what: str) -> None:
        """Keep a line for a person who replays one seed."""
        if self.lines is not None:
            self.lines.append(f"{self.loop.time():10.2f} {what}")

    def on_step(self) -> None:
        """Cancel a task or kill a process, or most often do neither."""
        self.steps += 1
        if self.steps == MAX_STEPS:
            raise AssertionError(f"the history did not end within {MAX_STEPS} steps")
        if self._victims and self.rng.random() < self.cancel_probability:
            self.cancel(self.rng.choice(self._victims))
        if self._killable and self.rng.random() < self.kill_probability:
            self.rng.choice(self._killable).kill()

    def cancel(self, task: asyncio.Task[Any]) -> None:
        """Cancel a task, wherever it waits."""
        if not task.done() and task.cancel():
            self.cancellations += 1
            self.trace(f"cancel {task.get_name()}")
            self._cancelled.setdefault(task, self.loop.time())

    def on_loop_problem(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        """Note what asyncio complains of: a lost exception, a destroyed task."""
        self.fail(f"asyncio: {context['message']} ({context.get('exception')!r})")

    # --- Tasks ---------------------------------------------------------------------------------------

    def make_task(self, loop: asyncio.AbstractEventLoop, coroutine: Any, **options: Any) -> asyncio.Task[Any]:
        """Make a task that belongs to the process of the task that makes it."""
        self._tasks += 1
        process = current_process.get()
        task = SimulatedTask(coroutine, loop=loop, **options)
        task.number = self._tasks
        if process is not None:
            process.tasks.append(task)
            if process.is_dead:
                task.cancel()
        return task

    def start(self, work: Coroutine[Any, Any, Any], name: str) -> asyncio.Task[Any]:
        """Start a task that may be cancelled at any step."""
        task = self.loop.create_task(work, name=name)
        self._victims.append(task)
        task.add_done_callback(self._on_end)
        return task

    async def run_process(self, work: Coroutine[Any, Any, Any], name: str) -> tuple[Process, asyncio.Task[Any]]:
        """
        Run work in a process of its own, which may be cancelled or killed at any step, until all of it has ended.

        :return: the process and the finished task.
        """
        process = Process(self)
        token = current_process.set(process)
        try:
            task = self.start(work, name)
        finally:
            current_process.reset(token)
        self._killable.append(process)
        await asyncio.wait([task])
        while process.threads and not process.is_dead:  # noqa: ASYNC110  # a process ends with its threads
            await asyncio.sleep(0.1)
        self._killable.remove(process)
        while left := [one for one in process.tasks if not one.done()]:
            if not process.is_dead:
                self.fail(f"{name} left tasks behind: {[one.get_name() for one in left]}")
            for one in left:
                one.cancel()
            await asyncio.wait(left)
        if process.is_dead and not task.cancelled():
            task.exception()  # retrieved; nobody sees what a dead process raises
        return process, task

    def _on_end(self, task: asyncio.Task[Any]) -> None:
        self._victims.remove(task)
        since = self._cancelled.get(task)
        if since is None:
            return
        if self.loop.time() > since + CANCELLATION_TIME:
            self.fail(f"{task.get_name()} ended {self.loop.time() - since:.1f} s after it was cancelled")
        if not task.cancelled():
            self.fail(f"{task.get_name()} was cancelled, but ended with {task.exception()!r}")

    # --- Secrets -------------------------------------------------------------------------------------

    def new_secret(self, prefix: str, length: int = 12) -> str:
        """Return a value that nothing may show."""
        value = "".join(self.rng.choices("ghjkmnpqrstvwxyz", k=length))
        self.protect(value)
        return prefix + value

    def protect(self, value: str, length: int = SHOWN_CHARACTERS) -> None:
        """Let nothing show some characters in a row of a value that consists of letters and digits."""
        self._needles += [value[start : start + length] for start in range(len(value) - length + 1)]

    def check_text(self, text: str, where: str) -> None:
        """Make sure that a text shows no secret, number or message."""
        if any(needle in text for needle in self._needles):
            self.fail(f"{where} shows a secret, a number or a text: {text!r}")

    def check_error(self, error: BaseException, allowed: type[BaseException] | tuple[type[BaseException], ...]) -> None:
        """
        Make sure that an error is of an expected kind, and shows nothing confidential, nor do the errors behind it.

        :param allowed: the kinds.
        """
        if not isinstance(error, allowed):
            self.fail(f"unexpected {error!r}")
        seen: set[int] = set()
        chain: list[BaseException | None] = [error]
        while chain:
            one = chain.pop()
            if one is not None and id(one) not in seen:
                seen.add(id(one))
                notes = getattr(one, "__notes__", [])
                extra = [one.call, one.subject, one.submissions] if isinstance(one, RtiSmsError) else []
                self.check_text(f"{one} {one!r} {one.args!r} {notes} {extra!r}", "an error")
                chain += [one.__cause__, None if one.__suppress_context__ else one.__context__]
