"""What tests of concurrent code need: a loop with a deadline, waiting for a condition, and a look at what is left over.

Nothing here knows Antiphon, but for the ZeroMQ context that a process may keep.
"""

from __future__ import annotations

import asyncio
import os
import threading
import time
import weakref
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any, TypeVar

import uvloop
import zmq

import protocol.sockets

T = TypeVar("T")

POLL_S = 0.005
SETTLE_S = 2.0  # what was told to end may take so long to be gone

_expected_processes: set[int] = set()
_contexts: weakref.WeakSet[Any] = weakref.WeakSet()
_sockets: weakref.WeakSet[Any] = weakref.WeakSet()


def run_async(work: Coroutine[Any, Any, T], deadline_s: float = 30.0) -> T:
    """Run a test's coroutine in uvloop, and fail if it takes longer, leaves a task behind, or a callback raises."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(_checked(work, deadline_s))


async def _checked(work: Coroutine[Any, Any, T], deadline_s: float) -> T:
    trouble: list[str] = []
    asyncio.get_running_loop().set_exception_handler(
        lambda _, context: trouble.append(f"{context['message']}: {context.get('exception')!r}")
    )
    async with asyncio.timeout(deadline_s):
        result = await work
    left = asyncio.all_tasks() - {asyncio.current_task()}
    if left:
        _, left = await asyncio.wait(left, timeout=0.1)
    assert not left, f"tasks were left running: {left}"
    assert not trouble, f"the loop had to report: {trouble}"
    return result


async def wait_for(condition: Callable[[], object], timeout_s: float = 5.0, what: str = "the condition") -> None:
    """Wait until `condition()` is true, letting the loop run; fails the test after `timeout_s`."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, f"{what} was not met within {timeout_s:g} s"
        await asyncio.sleep(POLL_S)


def wait_until(condition: Callable[[], object], timeout_s: float = 5.0, what: str = "the condition") -> None:
    """As `wait_for`, for tests without a loop."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, f"{what} was not met within {timeout_s:g} s"
        time.sleep(POLL_S)


# --- leaks ------------------------------------------------------------------------------------------------------------


def expect_process(pid: int) -> None:
    """A process that outlives the test that starts it: the fixture of a whole module or session owns it."""
    _expected_processes.add(pid)


def forget_process(pid: int) -> None:
    """Its owner has ended it."""
    _expected_processes.discard(pid)


@dataclass
class Snapshot:
    """What this process holds at one moment."""

    processes: set[int] = field(default_factory=set)
    threads: set[threading.Thread] = field(default_factory=set)
    zmq_objects: set[int] = field(default_factory=set)
    files: set[str] = field(default_factory=set)

    @classmethod
    def take(cls) -> Snapshot:
        """Now."""
        return cls(
            processes=_children(),
            threads={
                thread
                for thread in threading.enumerate()
                if not thread.daemon and not thread.name.startswith("pytest_timeout")
            },
            zmq_objects={id(found) for found in _open_zmq_objects()},
            files=_files(),
        )

    def leaks_since(self, before: Snapshot) -> list[str]:
        """What is here and was not before, in words. Only expected processes are left out."""
        found = [f"process {_describe(pid)}" for pid in self.processes - before.processes - _expected_processes]
        found += [f"thread {thread.name}" for thread in self.threads - before.threads]
        new = self.zmq_objects - before.zmq_objects
        found += [f"{thing!r} is not closed" for thing in _open_zmq_objects() if id(thing) in new]
        found += [f"open file {link}" for link in self.files - before.files]
        return found


def leaks_since(before: Snapshot) -> list[str]:
    """What was left behind since `before`, once it has had `SETTLE_S` to go."""
    deadline = time.monotonic() + SETTLE_S
    while (leaks := Snapshot.take().leaks_since(before)) and time.monotonic() < deadline:
        time.sleep(POLL_S)
    return leaks


def track_zmq() -> None:
    """Remember every ZeroMQ context and socket that is made from now on. Weakly: it keeps none alive."""
    for kind, known in ((zmq.Context, _contexts), (zmq.Socket, _sockets)):
        _remember(kind, known)


def _remember(kind: Any, known: weakref.WeakSet[Any]) -> None:
    made = kind.__init__

    def __init__(self: Any, *args: Any, **options: Any) -> None:  # noqa: N807  # it stands in for it
        made(self, *args, **options)
        known.add(self)

    kind.__init__ = __init__


def _open_zmq_objects() -> list[Any]:
    kept = protocol.sockets._shared  # lives as long as the process, by design; its sockets do not
    shared = kept[1] if kept is not None else None
    return [found for found in (*_contexts, *_sockets) if not found.closed and found is not shared]


def _children() -> set[int]:
    found: set[int] = set()
    for task in os.listdir("/proc/self/task"):
        try:
            with open(f"/proc/self/task/{task}/children", encoding="ascii") as children:
                found.update(map(int, children.read().split()))
        except FileNotFoundError:  # the thread has just ended; its children are another's now
            continue
    return found


def _describe(pid: int) -> str:
    try:
        with open(f"/proc/{pid}/cmdline", encoding="utf-8", errors="replace") as command:
            return f"{pid} ({command.read().replace(chr(0), ' ').strip() or 'ended, but nobody has waited for it'})"
    except FileNotFoundError:
        return str(pid)


def _files() -> set[str]:
    """The sockets and files that this process has open.

    Not the rest: libuv keeps a pipe for as long as the process lives, ZeroMQ's and the loops' descriptors have owners.
    """
    found: set[str] = set()
    for descriptor in os.listdir("/proc/self/fd"):
        try:
            link = os.readlink(f"/proc/self/fd/{descriptor}")
        except FileNotFoundError:  # the one that listed them
            continue
        if link.startswith(("socket:", "/")):
            found.add(link)
    return found
