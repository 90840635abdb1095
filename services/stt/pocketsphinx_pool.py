"""Processes that decode, and who may use them: lent for one utterance, started on demand, replaced when they die.

Knows nothing of streams and engines. Belongs to one event loop.
"""

from __future__ import annotations

import asyncio
import logging
import os
import sys
from pathlib import Path
from typing import Literal

import services
from protocol.errors import EngineError, EngineUnavailable
from services.stt.pocketsphinx_messages import Reply, Request, Search, read_reply, request_frame

log = logging.getLogger(__name__)

Purpose = Literal["recognise", "check"]

START_DEADLINE_S = 60.0  # 0.4 s on an idle machine; a cold disk has 40 MB to read
REPLY_DEADLINE_S = 20.0  # a second of audio takes 0.1 s; this is a process that hangs
MAX_REPLY_BYTES = 1_000_000


class Worker:
    """One process and what it last listened for. One user at a time."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process
        self._number = 0
        self._failed = False
        self.search = Search()

    @classmethod
    async def start(cls, purpose: Purpose) -> Worker:
        """Start a process and wait until its model is loaded.

        Raises `EngineUnavailable` if it can't be loaded, `EngineError` if the process died. Kills it when cancelled.
        """
        making = asyncio.create_task(_spawn(purpose))
        try:
            worker = cls(await asyncio.shield(making))
        except asyncio.CancelledError:
            await cls(await making).end()  # uvloop would leave it running if the spawning itself were cancelled
            raise
        try:
            reply = await worker._reply(0, START_DEADLINE_S)
        except BaseException:
            await worker.end()
            raise
        if reply.error:
            await worker.end()
            raise EngineUnavailable(
                f"pocketsphinx and its model cannot be loaded ({reply.error}); "
                "the installation is damaged: pip install --force-reinstall pocketsphinx"
            )
        return worker

    @property
    def pid(self) -> int:
        """Of the process, for logs and tests."""
        return self._process.pid

    @property
    def usable(self) -> bool:
        """Whether it lives and has not failed."""
        return not self._failed and self._process.returncode is None

    async def ask(self, request: Request) -> Reply:
        """Send a request, with its number filled in, and wait for its reply, past those to cancelled ones.

        Raises a retryable `EngineError` when the process is dead, hangs or reports a failure; it is not usable then.
        Safe to cancel.
        """
        self._number += 1
        number = request.number = self._number
        pipe = self._process.stdin
        assert pipe is not None
        try:
            pipe.write(request_frame(request))
            await pipe.drain()
        except (ConnectionError, RuntimeError) as error:  # RuntimeError: uvloop, for a pipe that has been closed
            raise self._dead() from error
        reply = await self._reply(number, REPLY_DEADLINE_S)
        if reply.error and not reply.option:
            self._failed = True
            raise EngineError(f"pocketsphinx failed: {reply.error}")
        return reply

    async def end(self) -> None:
        """Kill the process, and wait until it is gone."""
        self._failed = True
        if self._process.returncode is None:
            try:
                self._process.kill()
            except ProcessLookupError:
                log.debug("pocketsphinx process %d was gone before it was killed", self.pid)
        await self._process.wait()

    async def _reply(self, number: int, deadline_s: float) -> Reply:
        pipe = self._process.stdout
        assert pipe is not None
        try:
            async with asyncio.timeout(deadline_s):
                while line := await pipe.readline():
                    reply = read_reply(line)
                    if reply.number == number:
                        return reply
        except TimeoutError:
            self._failed = True
            raise EngineError(f"pocketsphinx process {self.pid} did not answer in {deadline_s:g} s") from None
        except ConnectionError as error:
            raise self._dead() from error
        raise self._dead()

    def _dead(self) -> EngineError:
        self._failed = True
        return EngineError(f"pocketsphinx process {self.pid} died while it decoded; another will take its place")


class Pool:
    """At most `limit` workers. Who finds none free waits, first come, first served."""

    def __init__(self, purpose: Purpose, limit: int) -> None:
        self._purpose = purpose
        self._free = asyncio.Semaphore(limit)
        self._idle: list[Worker] = []  # the last used is the last
        self._lent: set[Worker] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._closed = False

    @property
    def workers(self) -> list[Worker]:
        """All that are running, idle ones first."""
        return [*self._idle, *self._lent]

    async def warm(self, count: int) -> None:
        """Have `count` workers ready. Raises what `Worker.start` raises, when all have ended."""
        started = await asyncio.gather(*(Worker.start(self._purpose) for _ in range(count)), return_exceptions=True)
        self._idle += [worker for worker in started if isinstance(worker, Worker)]
        for worker in started:
            if isinstance(worker, BaseException):
                raise worker

    async def lend(self, search: Search) -> Worker:
        """A worker, preferably one that last listened for the same; give it back with `take_back`.

        Waits while `limit` are lent: that is the back-pressure. Raises what `Worker.start` raises. Safe to cancel.
        """
        await self._free.acquire()
        try:
            worker = self._choose(search) or await Worker.start(self._purpose)
        except BaseException:
            self._free.release()
            raise
        if self._closed:
            await worker.end()
            raise EngineError("the node is closing")
        self._lent.add(worker)
        return worker

    def take_back(self, worker: Worker) -> None:
        """Return a worker, whatever it was doing; one that is not usable any more is ended."""
        self._lent.discard(worker)
        if worker.usable and not self._closed:
            self._idle.append(worker)
        else:
            self._discard(worker)
        self._free.release()

    async def close(self) -> None:
        """End all workers, also those that are lent."""
        self._closed = True
        ending = [worker.end() for worker in self.workers]
        self._idle.clear()
        self._lent.clear()
        await asyncio.gather(*ending, *self._tasks)  # those that are starting end with their cancelled users

    def _choose(self, search: Search) -> Worker | None:
        """An idle worker, of those that listened for the same the one last used, else any last used."""
        for worker in [worker for worker in self._idle if not worker.usable]:
            self._idle.remove(worker)
            self._discard(worker)
        if not self._idle:
            return None
        fitting = [worker for worker in self._idle if worker.search == search]
        worker = (fitting or self._idle)[-1]
        self._idle.remove(worker)
        return worker

    def _discard(self, worker: Worker) -> None:
        if not self._closed:
            log.warning("pocketsphinx process %d is not usable any more and will be replaced", worker.pid)
        task = asyncio.get_running_loop().create_task(worker.end())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


async def _spawn(purpose: Purpose) -> asyncio.subprocess.Process:
    path = os.pathsep.join([str(Path(services.__file__).parents[1]), os.environ.get("PYTHONPATH", "")])
    return await asyncio.create_subprocess_exec(
        sys.executable, "-m", "services.stt.pocketsphinx_worker", purpose,
        stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, limit=MAX_REPLY_BYTES,
        env={**os.environ, "PYTHONPATH": path.rstrip(os.pathsep)},
    )  # fmt: skip
