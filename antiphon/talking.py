"""A conversation of a person at this machine: what the microphone records goes out, what the agent says is played."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from contextlib import AbstractContextManager

from antiphon.speaker import PlayQueue
from antiphon.turns import Turn, Turns
from protocol.client import Client, Reconnected
from protocol.ingest import Audio, Clear, Error, Metrics, Transcript

REPORT_EVERY_S = 0.1
MAX_BACKLOG_FRAMES = 200  # 4 s of recorded audio; older is dropped when nobody takes it

# Opens microphone and loudspeaker with the two callbacks.
OpenDevices = Callable[[Callable[[bytes], None], Callable[[int], bytes]], AbstractContextManager[None]]


class Talk:
    """One call. `show(turn, ended)` is called as turns change, `trouble(message)` when something goes wrong."""

    def __init__(
        self, client: Client, queue: PlayQueue, show: Callable[[Turn, bool], None], trouble: Callable[[str], None]
    ) -> None:
        self._client = client
        self._queue = queue
        self._show = show
        self._trouble = trouble
        self._turns = Turns()
        self._recorded: asyncio.Queue[bytes] = asyncio.Queue(MAX_BACKLOG_FRAMES)

    async def run(self, open_devices: OpenDevices) -> None:
        """Until the orchestrator closes the session, or it is cancelled. Raises what the client raises."""
        loop = asyncio.get_running_loop()

        def record(pcm: bytes) -> None:
            loop.call_soon_threadsafe(self._keep, pcm)

        with open_devices(record, self._queue.take):
            helpers = [asyncio.create_task(self._send()), asyncio.create_task(self._report())]
            listening = asyncio.create_task(self._listen())
            try:
                done, _ = await asyncio.wait([listening, *helpers], return_when=asyncio.FIRST_COMPLETED)
                for task in done:
                    task.result()
            finally:
                for task in (listening, *helpers):
                    task.cancel()
                await asyncio.wait([listening, *helpers])

    def _keep(self, pcm: bytes) -> None:
        if self._recorded.full():
            self._recorded.get_nowait()
        self._recorded.put_nowait(pcm)

    async def _send(self) -> None:
        while True:
            await self._client.send_audio(await self._recorded.get())
            self._turns.sent_audio(self._client.sent_ms, time.monotonic())

    async def _report(self) -> None:
        """Tell the orchestrator what was played: only that counts as heard."""
        told = (0, 0)
        while True:
            await asyncio.sleep(REPORT_EVERY_S)
            played = self._queue.played
            if played != told and played[0] == self._client.generation:
                self._client.report_played(*played)
                told = played

    async def _listen(self) -> None:
        async for event in self._client:
            turn = self._turns.take(event, time.monotonic())
            if isinstance(event, Audio):
                self._queue.push(event.generation, event.pcm)
            elif isinstance(event, Clear):
                self._queue.clear(event.generation)
            elif isinstance(event, Reconnected):
                self._queue.reset()
                self._trouble(f"{event.reason}; the conversation goes on in a new session")
            elif isinstance(event, Error):
                self._trouble(event.message)
            elif turn is not None:
                unasked = turn is self._turns.unasked and isinstance(event, Transcript) and event.final
                self._show(turn, unasked or isinstance(event, Metrics))
