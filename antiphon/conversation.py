"""A conversation held by a program: files and texts are sent one after the other, each until it has been answered.

Knows the ingest client and the turns; prints nothing, its `Watcher` does.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from typing import Protocol

from antiphon.pacing import Fast, Pace, RealTime
from antiphon.reply_file import ReplyFile
from antiphon.sound_file import SoundFile
from antiphon.turns import Turn, Turns
from protocol.audio import AudioFormat
from protocol.client import Client, Reconnected
from protocol.errors import ConnectionLost
from protocol.ingest import Audio, Clear, Error, Metrics, Transcript
from protocol.limits import FRAME_MS, INGEST_AHEAD_MS

SETTLE_MS = 1_500  # of silence after a file: longer than any shipped end of turn takes to be found
STUCK_S = 30.0  # without a word from the orchestrator while a turn is open


class Watcher(Protocol):
    """Who wants to know how it goes."""

    def sending(self, source: str, done_ms: float, total_ms: float) -> None:
        """So much of a file has been sent."""

    def heard(self, turn: Turn) -> None:
        """The turn has changed; it goes on."""

    def ended(self, turn: Turn) -> None:
        """The turn has ended."""

    def silent(self, source: str) -> None:
        """All of the file was taken, and there was no speech in it."""

    def trouble(self, message: str) -> None:
        """Something went wrong, and the conversation goes on."""


class Conversation:
    """Sends, on a session that is open, and keeps the account. With `fast`, nothing waits for the clock."""

    def __init__(
        self,
        client: Client,
        input: AudioFormat,
        output: AudioFormat,
        *,
        fast: bool,
        watcher: Watcher,
        reply_file: ReplyFile | None = None,
    ) -> None:
        self.turns = Turns()
        self.silent: list[str] = []  # files in which there was no speech
        self._client = client
        self._input = input
        self._output = output
        self._fast = fast
        self._watcher = watcher
        self._reply_file = reply_file
        self._pace: Pace = Fast() if fast else RealTime()
        self._clock = RealTime()
        self._played: dict[int, float] = {}  # by generation, with `fast`
        self._last_event = time.monotonic()
        self._file_end_ms = 0.0
        self._listening: asyncio.Task[None] | None = None

    async def run(self, files: Sequence[SoundFile], texts: Sequence[str]) -> None:
        """Send all files, then all texts. Returns when the last was answered or given up.

        Raises `ConnectionLost`, `SessionEnded`, and `UnreadableInput` for a file that is damaged. Safe to cancel.
        """
        self._listening = listening = asyncio.create_task(self._listen())
        try:
            for file in files:
                await self._send_file(file)
            for text in texts:
                await self._send_text(text)
        finally:
            listening.cancel()
            await asyncio.wait([listening])

    async def _listen(self) -> None:
        async for event in self._client:
            now = self._last_event = time.monotonic()
            turn = self.turns.take(event, now)
            if isinstance(event, Audio):
                self._on_audio(event)
            elif isinstance(event, Clear) and self._reply_file is not None:
                self._reply_file.clear(event.heard_ms)
            elif isinstance(event, Error):
                self._watcher.trouble(event.message)
            elif isinstance(event, Reconnected):
                self._file_end_ms = 0.0
                self._watcher.trouble(f"{event.reason}; the conversation goes on in a new session")
            elif turn is not None and isinstance(event, Metrics):
                if not self.turns.agent_busy:  # or more of the answer may come: from a task that was handed over to
                    self._tell(turn)
            elif turn is self.turns.unasked and isinstance(event, Transcript) and event.final:
                self._watcher.ended(turn)
            elif turn is not None and isinstance(event, Transcript):
                self._watcher.heard(turn)

    def _tell(self, turn: Turn) -> None:
        if not turn.told:
            turn.told = True
            self._watcher.ended(turn)

    def _on_audio(self, audio: Audio) -> None:
        if self._reply_file is not None:
            self._reply_file.take(audio.generation, audio.pcm)
        if self._fast and audio.pcm:
            played = self._played.get(audio.generation, 0.0)
            played += self._output.duration_ms(len(audio.pcm))
            self._played = {audio.generation: played}
            self._client.report_played(audio.generation, int(played))

    # --- sending ----------------------------------------------------------------------------------------------------

    async def _send_file(self, file: SoundFile) -> None:
        source = self.turns.source = str(file.path)
        before = len(self.turns.all)
        done_ms = 0.0
        for block in file.blocks(self._input.sample_rate):
            await self._send(block, self._pace)
            done_ms += self._input.duration_ms(len(block))
            self._watcher.sending(source, done_ms, file.duration_ms)
        self._file_end_ms = self._client.sent_ms
        if self._fast:
            await self._until_taken()
        await self._until_answered()
        if len(self.turns.all) == before and not self._fast:
            await self._until_taken()
            await self._until_answered()
        if len(self.turns.all) == before:
            self.silent.append(source)
            self._watcher.silent(source)

    async def _send_text(self, text: str) -> None:
        self.turns.source = ""
        self.turns.sent_text(time.monotonic())
        await self._client.send_text(text)
        self._file_end_ms = self._client.sent_ms - SETTLE_MS  # no speech was sent that could still be found
        await self._until_answered()

    async def _send(self, pcm: bytes, pace: Pace) -> None:
        if self._listening is not None and self._listening.done():
            self._listening.result()  # raises what ended it; after a `closed`, sending does
        size = self._input.frame_bytes(FRAME_MS)
        for start in range(0, len(pcm), size):
            frame = pcm[start : start + size]
            await pace.wait(self._input.duration_ms(len(frame)))
            await self._client.send_audio(frame)
            self.turns.sent_audio(self._client.sent_ms, time.monotonic())

    async def _until_taken(self) -> None:
        """Send silence until the file has surely been listened to: credit runs ahead of what vad has taken."""
        end_ms = self._file_end_ms + SETTLE_MS + INGEST_AHEAD_MS
        while self._client.sent_ms < end_ms:
            await self._send(self._silence, Fast())

    async def _until_answered(self) -> None:
        """Send silence, as a microphone in a quiet room, until no turn is open any more, or the agent waits for one.

        Raises `ConnectionLost` when the orchestrator says nothing for `STUCK_S` while one is.
        """
        self._last_event = time.monotonic()
        while self._unanswered or self._client.sent_ms < self._file_end_ms + SETTLE_MS:
            await self._send(self._silence, self._clock)
            if time.monotonic() - self._last_event > STUCK_S:
                raise ConnectionLost(f"the turn has not ended: the orchestrator has said nothing for {STUCK_S:g} s")
        for turn in self.turns.all:
            self._tell(turn)

    @property
    def _unanswered(self) -> bool:
        return self.turns.open and not self.turns.waits(time.monotonic())

    @property
    def _silence(self) -> bytes:
        return bytes(self._input.frame_bytes(FRAME_MS))
