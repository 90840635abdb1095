"""Virtual time: an event loop in which an hour of waiting takes no longer than a millisecond.

When nothing is ready to run, the clock jumps to the next timer. So `asyncio.sleep`, `asyncio.timeout`, `call_later` and
`loop.time()` are virtual; `time.time()`, `time.monotonic()` and `time.sleep()` are what they always are, and what runs
between two waits takes no time at all.

What happens outside the loop cannot be hurried. While a thread of `asyncio.to_thread` or `run_in_executor`, or a
subprocess, is at work, time stands still for `PATIENCE_S` of real time and goes on at the real pace after that: a
function that takes 50 ms fires nobody's timeout, and one that hangs still meets its own. While the test has a socket
or a pipe open, time goes at the real pace. Of other threads that call back into the loop nothing can be seen from here:
say `with loop.outside():` around the wait for them.

A test that can never end is ended, with a list of what its tasks wait for. This room knows nothing of agents.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import selectors
import time
from collections.abc import Callable, Coroutine, Iterator
from concurrent.futures import Executor
from typing import Any, ParamSpec, TypeVar, TypeVarTuple, overload

T = TypeVar("T")
Arguments = ParamSpec("Arguments")
Parameters = TypeVarTuple("Parameters")

START_S = 1_000.0  # what the clock shows first: not 0, which much code takes for "has not happened"
PATIENCE_S = 0.25  # real: longer than starting a thread takes on a busy machine
LIMIT_S = 7_200.0  # of virtual time: a test that takes longer waits for something that does not come
SETTLE_S = 0.1  # virtual: for tasks that were told to end when the test's coroutine returns


class Stuck(AssertionError):
    """The test can't end: nothing will happen any more, or too much virtual time has passed."""


class VirtualLoop(asyncio.SelectorEventLoop):
    """An event loop whose clock jumps. `limit_s`: after so much virtual time the loop raises `Stuck`."""

    def __init__(self, limit_s: float = LIMIT_S) -> None:
        self._now = START_S
        self._limit_s = limit_s
        self._ends_at = START_S + limit_s
        self._outside = 0  # threads and subprocesses that are at work
        self._patient_until = 0.0  # real, monotonic
        self._waiting = _Selector(self._jump)
        super().__init__(self._waiting)

    def time(self) -> float:
        """Virtual seconds, from `START_S`."""
        return self._now

    @contextlib.contextmanager
    def outside(self) -> Iterator[None]:
        """While this is held, something outside the loop is at work: time does not jump."""
        leave = self._enter()
        try:
            yield
        finally:
            leave()

    def run_in_executor(
        self, executor: Executor | None, func: Callable[[*Parameters], T], *args: *Parameters
    ) -> asyncio.Future[T]:
        """As ever; the thread counts as being at work until its result is there or is not wanted any more."""
        leave = self._enter()
        try:
            future = super().run_in_executor(executor, func, *args)
        except BaseException:
            leave()
            raise
        future.add_done_callback(lambda _: leave())
        return future

    async def shutdown_default_executor(self, *args: Any) -> None:
        """As ever: waits for the threads."""
        with self.outside():
            await super().shutdown_default_executor(*args)

    async def subprocess_exec(self, protocol_factory: Any, *args: Any, **options: Any) -> Any:
        """As ever; the process counts as being at work until it has ended."""
        leave = self._enter()
        try:
            return await super().subprocess_exec(_leaving(protocol_factory, leave), *args, **options)
        except BaseException:
            leave()
            raise

    async def subprocess_shell(self, protocol_factory: Any, *args: Any, **options: Any) -> Any:
        """As `subprocess_exec`."""
        leave = self._enter()
        try:
            return await super().subprocess_shell(_leaving(protocol_factory, leave), *args, **options)
        except BaseException:
            leave()
            raise

    def _enter(self) -> Callable[[], None]:
        """Something outside has begun. Call what this returns when it has ended; a second call does nothing."""
        self._outside += 1
        self._patient_until = time.monotonic() + PATIENCE_S
        left = False

        def leave() -> None:
            nonlocal left
            if not left:
                left = True
                self._outside -= 1

        return leave

    def _jump(self, timeout_s: float | None) -> list[tuple[selectors.SelectorKey, int]]:
        """Nothing is ready: go to the next timer, `timeout_s` away (None: no timer), or wait for what is outside."""
        if self._outside or len(self._waiting.get_map()) > 1:  # one is the loop's own, through which threads wake it
            return self._wait(timeout_s)
        if timeout_s is None:
            raise Stuck(f"nothing will happen any more, and the test has not ended:{_pending(self)}")
        self._now += timeout_s
        if self._now > self._ends_at:
            self._ends_at = self._now + self._limit_s  # what is cancelled now may wait a little
            raise Stuck(f"the test has not ended within {self._limit_s:g} s of virtual time:{_pending(self)}")
        return []

    def _wait(self, timeout_s: float | None) -> list[tuple[selectors.SelectorKey, int]]:
        """Wait really. Time stands still while we are patient, then goes along."""
        began = time.monotonic()
        patience_s = max(0.0, self._patient_until - began) if self._outside else 0.0
        found = self._waiting.wait(None if timeout_s is None else timeout_s + patience_s)
        passed_s = max(0.0, time.monotonic() - began - patience_s)
        self._now += passed_s if timeout_s is None else min(passed_s, timeout_s)
        return found


class _Selector(selectors.DefaultSelector):
    """Asks before it waits."""

    def __init__(self, jump: Callable[[float | None], list[tuple[selectors.SelectorKey, int]]]) -> None:
        super().__init__()
        self._jump = jump

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        found = super().select(0)
        return found if found or timeout == 0 else self._jump(timeout)

    def wait(self, timeout: float | None) -> list[tuple[selectors.SelectorKey, int]]:
        """What `select` of a usual selector does."""
        return super().select(timeout)


def run(test: Coroutine[Any, Any, T], *, limit_s: float = LIMIT_S) -> T:
    """Run a coroutine in a loop of its own, in virtual time, and return its result.

    Raises what the coroutine raises; `Stuck` when it can never end; and `AssertionError`, naming them, when it leaves
    tasks behind or when the loop had to report an exception that nobody else would have seen.
    """
    with asyncio.Runner(loop_factory=lambda: VirtualLoop(limit_s)) as runner:
        return runner.run(_checked(test))


@overload
def virtual_time(test: Callable[Arguments, Coroutine[Any, Any, None]]) -> Callable[Arguments, None]: ...
@overload
def virtual_time(
    *, limit_s: float = LIMIT_S
) -> Callable[[Callable[Arguments, Coroutine[Any, Any, None]]], Callable[Arguments, None]]: ...
def virtual_time(test: Any = None, *, limit_s: float = LIMIT_S) -> Any:
    """Make an `async def test_…` a test that any pytest can run, in virtual time. Fixtures work as ever.

    `@virtual_time` or `@virtual_time(limit_s=…)`.
    """
    if test is None:
        return functools.partial(virtual_time, limit_s=limit_s)

    @functools.wraps(test)
    def runs(*args: Any, **named: Any) -> None:
        run(test(*args, **named), limit_s=limit_s)

    return runs


async def _checked(test: Coroutine[Any, Any, T]) -> T:
    trouble: list[dict[str, Any]] = []
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda _, context: trouble.append(context))
    result = await test
    left = asyncio.all_tasks() - {asyncio.current_task()}
    if left:
        _, left = await asyncio.wait(left, timeout=SETTLE_S)
    if left:
        raise AssertionError(
            f"the test has ended, and these tasks have not:{_pending(loop, but=asyncio.current_task())}"
        )
    for context in trouble:
        raise AssertionError(f"the loop had to report: {context['message']}") from context.get("exception")
    return result


def _pending(loop: asyncio.AbstractEventLoop, but: asyncio.Task[Any] | None = None) -> str:
    """The tasks that have not ended, a line each, with where they wait."""
    tasks = sorted(asyncio.all_tasks(loop) - {but}, key=lambda task: task.get_name())
    return "".join(f"\n  {task.get_name()}: {_whereabouts(task)}" for task in tasks)


def _whereabouts(task: asyncio.Task[Any]) -> str:
    """The chain of awaits, outermost first, as far as Python lets it be seen (not into an `async for`)."""
    frames: list[str] = []
    awaited: Any = task.get_coro()
    while awaited is not None:
        frame = getattr(awaited, "cr_frame", None) or getattr(awaited, "gi_frame", None)
        if frame is not None:
            code = frame.f_code
            frames.append(f"{code.co_qualname} ({code.co_filename}:{frame.f_lineno})")
        awaited = getattr(awaited, "cr_await", None) or getattr(awaited, "gi_yieldfrom", None)
    return " → ".join(frames) or repr(task)


def _leaving(protocol_factory: Callable[[], Any], leave: Callable[[], None]) -> Callable[[], Any]:
    """A factory of the same protocols, which call `leave` when their process has ended."""

    def make() -> Any:
        protocol = protocol_factory()
        exited = protocol.process_exited

        def process_exited() -> None:
            leave()
            exited()

        protocol.process_exited = process_exited
        return protocol

    return make
