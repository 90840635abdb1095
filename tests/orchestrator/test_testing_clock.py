"""Virtual time: what jumps, what does not, and what is said of a test that can never end."""

from __future__ import annotations

import asyncio
import os
import sys
import threading
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from orchestrator.testing.clock import PATIENCE_S, START_S, Stuck, VirtualLoop, run, virtual_time


def now() -> float:
    return asyncio.get_running_loop().time()


# --- what is virtual --------------------------------------------------------------------------------------------------


@virtual_time
async def test_an_hour_of_sleep_takes_no_time() -> None:
    began = time.monotonic()
    await asyncio.sleep(3_600)
    assert now() == START_S + 3_600
    assert time.monotonic() - began < 1


@virtual_time
async def test_timers_come_in_their_order_and_on_time() -> None:
    seen: list[tuple[str, float]] = []

    def note(name: str) -> None:
        seen.append((name, now() - START_S))

    loop = asyncio.get_running_loop()
    for name, delay_s in (("late", 20.0), ("early", 0.02), ("at once", 0.0)):
        loop.call_later(delay_s, note, name)
    await asyncio.sleep(30)
    assert seen == [("at once", 0.0), ("early", pytest.approx(0.02)), ("late", 20.0)]


@virtual_time
async def test_a_deadline_ends_a_wait_in_virtual_time() -> None:
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(600):
            await asyncio.Event().wait()
    assert now() == START_S + 600


@virtual_time
async def test_what_runs_between_two_waits_takes_no_time() -> None:
    time.sleep(0.02)  # noqa: ASYNC251  # it stands for work
    await asyncio.sleep(0)
    assert now() == START_S


def test_the_result_and_the_exception_of_the_coroutine_come_back() -> None:
    async def gives() -> int:
        await asyncio.sleep(60)
        return 7

    async def raises() -> None:
        await asyncio.sleep(60)
        raise KeyError("gone")

    assert run(gives()) == 7
    with pytest.raises(KeyError, match="gone"):
        run(raises())


@pytest.mark.parametrize("number", [1, 2])
@virtual_time
async def test_a_decorated_test_has_its_fixtures_and_parameters(tmp_path: Path, number: int) -> None:
    await asyncio.sleep(60)
    assert tmp_path.name
    assert number in (1, 2)


# --- what is outside --------------------------------------------------------------------------------------------------


@virtual_time
async def test_time_does_not_jump_while_a_thread_is_at_work() -> None:
    async with asyncio.timeout(30):
        await asyncio.to_thread(time.sleep, 0.05)
    assert now() == START_S


@virtual_time
async def test_a_thread_that_hangs_still_meets_its_timeout() -> None:
    released = threading.Event()
    began = time.monotonic()
    try:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.1):
                await asyncio.to_thread(released.wait)
        assert time.monotonic() - began >= PATIENCE_S + 0.1
        await asyncio.sleep(3_600)  # its result is not wanted any more: time jumps again
        assert time.monotonic() - began < 30
    finally:
        released.set()


@virtual_time
async def test_an_executor_that_refuses_does_not_hold_time_up() -> None:
    loop = asyncio.get_running_loop()
    await loop.shutdown_default_executor()
    with pytest.raises(RuntimeError):
        await loop.run_in_executor(None, os.getpid)
    await asyncio.sleep(3_600)


@virtual_time
async def test_time_does_not_jump_while_a_subprocess_is_at_work() -> None:
    code = "import time; time.sleep(0.05); print('done')"
    async with asyncio.timeout(30):
        process = await asyncio.create_subprocess_exec(sys.executable, "-c", code, stdout=asyncio.subprocess.PIPE)
        out, _ = await process.communicate()
    assert out == b"done\n"
    began = time.monotonic()
    await asyncio.sleep(3_600)
    assert time.monotonic() - began < 30


@virtual_time
async def test_a_subprocess_without_pipes_counts_as_well() -> None:
    async with asyncio.timeout(30):
        process = await asyncio.create_subprocess_shell("exit 3")
        assert await process.wait() == 3
    await asyncio.sleep(3_600)


@virtual_time
async def test_a_program_that_does_not_exist_does_not_hold_time_up() -> None:
    with pytest.raises(FileNotFoundError):
        await asyncio.create_subprocess_exec("/nowhere/at/all")
    await asyncio.sleep(3_600)


@virtual_time
async def test_while_a_socket_is_open_time_goes_at_the_real_pace(tmp_path: Path) -> None:
    async def answers(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(await reader.readline())
        writer.close()

    path = str(tmp_path / "socket")
    server = await asyncio.start_unix_server(answers, path)
    reader, writer = await asyncio.open_unix_connection(path)
    began = time.monotonic()
    await asyncio.sleep(0.05)
    assert time.monotonic() - began >= 0.05
    writer.write(b"hello\n")
    async with asyncio.timeout(30):
        assert await reader.readline() == b"hello\n"
    writer.close()
    await writer.wait_closed()
    server.close()
    await server.wait_closed()
    await asyncio.sleep(3_600)
    assert time.monotonic() - began < 30


@virtual_time
async def test_the_wait_for_a_thread_of_ones_own_can_be_named() -> None:
    loop = asyncio.get_running_loop()
    assert isinstance(loop, VirtualLoop)
    called = asyncio.Event()
    thread = threading.Timer(0.05, lambda: loop.call_soon_threadsafe(called.set))
    thread.start()
    with loop.outside():
        async with asyncio.timeout(30):
            await called.wait()
    assert now() == START_S
    thread.join()


# --- what can never end -----------------------------------------------------------------------------------------------


async def waits_for_ever() -> None:
    await asyncio.Event().wait()


def test_a_deadlock_is_an_error_that_says_who_waits_where() -> None:
    async def deadlock() -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(waits_for_ever(), name="the other")
            await asyncio.sleep(5)

    with pytest.raises(Stuck) as caught:
        run(deadlock())
    said = str(caught.value)
    assert "nothing will happen any more" in said
    line = next(line for line in said.splitlines() if "the other" in line)
    assert "waits_for_ever" in line
    assert f"{__file__}:{waits_for_ever.__code__.co_firstlineno + 1}" in line
    assert "Event.wait" in line
    assert "deadlock" in said


def test_after_a_deadlock_the_tasks_are_cancelled_and_may_still_wait() -> None:
    ended: list[str] = []

    async def deadlock() -> None:
        try:
            await waits_for_ever()
        finally:
            await asyncio.sleep(1)
            ended.append("cleanly")

    with pytest.raises(Stuck):
        run(deadlock())
    assert ended == ["cleanly"]


def test_a_test_that_waits_in_a_loop_for_what_never_comes_is_ended() -> None:
    async def polls() -> None:
        while True:  # noqa: ASYNC110  # that is the mistake
            await asyncio.sleep(0.05)

    with pytest.raises(Stuck, match=r"not ended within 60 s of virtual time:\n.*polls"):
        run(polls(), limit_s=60)


def test_after_too_long_a_time_the_tasks_may_still_wait() -> None:
    ended: list[str] = []

    async def waits() -> None:
        try:
            await asyncio.sleep(100)
        finally:
            await asyncio.sleep(1)
            ended.append("cleanly")

    with pytest.raises(Stuck):
        run(waits(), limit_s=60)
    assert ended == ["cleanly"]


def test_the_limit_can_be_given_to_the_decorator() -> None:
    @virtual_time(limit_s=10)
    async def sleeps() -> None:
        await asyncio.sleep(11)

    with pytest.raises(Stuck, match="within 10 s"):
        sleeps()


# --- what is left behind ----------------------------------------------------------------------------------------------


def test_a_task_that_is_left_is_named() -> None:
    async def forgets() -> None:
        asyncio.get_running_loop().create_task(waits_for_ever(), name="forgotten")

    with pytest.raises(AssertionError, match=r"have not:\n  forgotten: waits_for_ever \("):
        run(forgets())


def test_a_task_that_is_just_ending_is_not_left() -> None:
    async def ends() -> None:
        task = asyncio.get_running_loop().create_task(waits_for_ever())
        await asyncio.sleep(1)
        task.cancel()

    run(ends())


def test_an_exception_that_nobody_saw_fails_the_test() -> None:
    async def breaks() -> None:
        asyncio.get_running_loop().call_soon(lambda: 1 / 0)
        await asyncio.sleep(1)

    with pytest.raises(AssertionError, match="had to report") as caught:
        run(breaks())
    assert isinstance(caught.value.__cause__, ZeroDivisionError)


def test_the_loop_is_closed_with_its_generators_and_threads() -> None:
    loops: list[asyncio.AbstractEventLoop] = []
    closed: list[str] = []

    async def numbers() -> AsyncIterator[int]:
        try:
            yield 1
        finally:
            closed.append("generator")

    async def leaves() -> AsyncIterator[int]:
        loops.append(asyncio.get_running_loop())
        assert await asyncio.to_thread(os.getpid) == os.getpid()
        endless = numbers()
        await anext(endless)
        return endless  # held by the test, so that only the loop closes it

    kept = run(leaves())
    assert closed == ["generator"]
    assert loops[0].is_closed()
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("asyncio")]
    del kept
