"""The look at what a test leaves behind sees it, and names it."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import zmq

from tests import support
from tests.support import Snapshot, expect_process, forget_process, leaks_since, run_async


@pytest.fixture
def before(monkeypatch: pytest.MonkeyPatch) -> Snapshot:
    monkeypatch.setattr(support, "SETTLE_S", 0.0)
    return Snapshot.take()


def test_nothing_is_found_where_nothing_was_left(before: Snapshot) -> None:
    assert leaks_since(before) == []


def test_a_process_is_found_unless_it_is_expected(before: Snapshot) -> None:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        [leak] = leaks_since(before)
        assert str(process.pid) in leak
        expect_process(process.pid)
        assert leaks_since(before) == []
        forget_process(process.pid)
        process.kill()


def test_a_thread_is_found(before: Snapshot) -> None:
    ended = threading.Event()
    thread = threading.Thread(target=ended.wait, name="forgotten")
    thread.start()
    assert leaks_since(before) == ["thread forgotten"]
    ended.set()
    thread.join()


def test_a_file_is_found(before: Snapshot, tmp_path: Path) -> None:
    descriptor = os.open(tmp_path / "forgotten", os.O_CREAT)
    assert leaks_since(before) == [f"open file {tmp_path}/forgotten"]
    os.close(descriptor)


def test_a_zmq_context_and_its_sockets_are_found(before: Snapshot) -> None:
    context = zmq.Context()
    socket = context.socket(zmq.DEALER)
    assert sum("is not closed" in leak for leak in leaks_since(before)) == 2
    socket.close(0)
    context.term()


def test_a_task_is_found() -> None:
    async def forgets() -> None:
        asyncio.get_running_loop().create_task(asyncio.sleep(60), name="forgotten")

    with pytest.raises(AssertionError, match=r"tasks were left running: .*forgotten"):
        run_async(forgets())


def test_a_callback_that_raises_is_found() -> None:
    async def breaks() -> None:
        asyncio.get_running_loop().call_soon(lambda: 1 / 0)
        await asyncio.sleep(0)

    with pytest.raises(AssertionError, match="ZeroDivisionError"):
        run_async(breaks())
