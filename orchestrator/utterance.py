"""One utterance of the agent, from its text to the last millisecond that the client has played. One generation.

Runs as one task, which its speaker owns and cancels on an interruption. What was heard is known at any time.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterable, AsyncIterator, Callable
from contextlib import aclosing
from typing import Any, cast

from orchestrator.as_written import as_written
from orchestrator.output_audio import OutputAudio
from orchestrator.playout import Playout
from orchestrator.speech import Piece, Speech
from protocol.audio import AudioFormat, AudioFrame
from protocol.ingest import Audio, ToClient, Transcript
from protocol.limits import PLAYOUT_AHEAD_MS

REFILL_MS = 200  # the client's buffer is topped up in steps, not with a wake-up for every frame
REPORT_STEP_MS = 1.0  # clients report whole milliseconds
REPORT_POLL_S = 0.25  # how often a client that owes a report is looked after

Clock = Callable[[], float]
Speak = Callable[[AsyncIterable[str]], AsyncIterable[AudioFrame]]


class Utterance:
    """Text that is shown, spoken and played; what was heard of it."""

    def __init__(
        self,
        *,
        turn: int,
        generation: int,
        output: AudioFormat,
        reports_played: bool,
        send: Callable[[ToClient], None],
        on_speaking: Callable[[], None],
        clock: Clock = time.monotonic,
    ) -> None:
        self.turn = turn
        self.generation = generation
        self.speech = Speech()
        self.playout = Playout(reported=reports_played)
        self.written = asyncio.Event()  # all of its text is there
        self.first_piece_at = self.first_audio_at = 0.0  # seconds of `clock`; 0: not yet
        self._format = output
        self._output = OutputAudio(output)
        self._send = send
        self._on_speaking = on_speaking
        self._clock = clock
        self._progress = asyncio.Event()
        self._spoken = ""  # what has begun to be spoken of it, in the words that tts was given
        self._shown = ""
        self._written = ""  # what there is to say so far
        self._silent = False  # it is only written
        self._made_ms = 0.0  # of its audio, sent or not
        self._made = False  # all of its audio is there
        self._heard: str | None = None  # once it is closed
        self._played_ms: float | None = None

    async def run(self, text: AsyncIterable[str], speak: Speak | None) -> None:
        """Say the text at the pace at which it is played, and return when all was played. `speak` None: only write it.

        Raises what `text` and `speak` raise. Cancelling closes both at once.
        """
        noted = self._note(text)
        if speak is None:
            self._silent = True
            async for _ in noted:
                self._show(self._written)
            return
        async with aclosing(cast(Any, speak(noted))) as frames:
            async for frame in frames:
                self._made_ms += frame.duration_ms
                for pcm in self._output.push(frame):  # a frame of the user's own may last for a minute
                    self._deliver(pcm)
                    await self._room()
        self._made = bool(self.speech.pieces)  # else there may be more text, and the audio is its sound
        for pcm in self._output.flush():
            self._deliver(pcm)
        if not self._made:
            await self._read_on(noted)
            self._made = True
        if not self._silent:
            self._send(Audio("", self.generation, 0, b"", True))
            await self._played()

    async def _read_on(self, noted: AsyncIterator[str]) -> None:
        """A voice of the user's own has spoken: it need not have read all of the text, nor have made a sound."""
        self._silent = not self.playout.sent_ms
        self._show(self._written)
        async for _ in noted:
            self._show(self._written)

    def close(self) -> None:
        """Send nothing more of it, and count what was heard until now."""
        self._heard = self.heard_text()
        played_ms = self.played_ms()
        whole = self._made and self.playout.sent_ms - played_ms < REPORT_STEP_MS
        self._played_ms = self.playout.sent_ms if whole else played_ms
        self._send = _drop

    def report_played(self, played_ms: float) -> None:
        """The client has played so much of it."""
        self.playout.report(played_ms)
        self._progress.set()

    def text(self) -> str:
        """All that was written of it so far."""
        return self._written.strip()

    def heard_text(self) -> str:
        """What the user has heard (or read) so far."""
        if self._heard is not None:
            return self._heard
        if self._silent:
            return self._written.strip()
        played_ms = self.playout.played_ms(self._clock())
        if self.speech.pieces or not self.playout.sent_ms:
            return self._as_written(self.speech.heard(played_ms))
        # A tts_node of the user's own, which has not said what text its audio belongs to.
        audio_ms = self.playout.sent_ms if self._made else self._made_ms
        whole = Piece(self._written, start_ms=0.0, audio_ms=audio_ms, complete=self._made)
        return whole.heard(played_ms).strip()

    def played_ms(self) -> float:
        """What was played of its audio."""
        if self._played_ms is not None:
            return self._played_ms
        return self.playout.played_ms(self._clock())

    def note_piece(self) -> None:
        """The first piece of text goes to tts."""
        self.first_piece_at = self._clock()

    async def _note(self, text: AsyncIterable[str]) -> AsyncIterator[str]:
        async with aclosing(cast(Any, text)):
            async for part in text:
                self._written += part
                yield part
        self.written.set()

    def _deliver(self, pcm: bytes) -> None:
        self._send(Audio("", self.generation, 0, pcm))
        now = self._clock()
        self.playout.sent(now, self._format.duration_ms(len(pcm)))
        if not self.first_audio_at:
            self.first_audio_at = now
            self._on_speaking()
        if self.speech.pieces:
            self._caption(self.speech.spoken(self.playout.sent_ms))
        else:
            self._show(self._written)

    def _as_written(self, spoken: str) -> str:
        """What was said, in the words in which it was written: a tts_node may have given tts others."""
        return as_written(self._written, self.speech.text, spoken, complete=self._made)

    def _caption(self, spoken: str) -> None:
        if spoken != self._spoken:
            self._spoken = spoken
            self._show(self._as_written(spoken))

    def _show(self, text: str) -> None:
        if text != self._shown:
            self._shown = text
            self._send(Transcript("", self.generation, 0, self.turn, "agent", text.strip(), False))

    async def _room(self) -> None:
        """Wait while the client has enough to play."""
        while (ahead := self.playout.ahead_ms(self._clock())) > PLAYOUT_AHEAD_MS:
            await self._wait(max(REFILL_MS, ahead - PLAYOUT_AHEAD_MS + REFILL_MS) / 1000)

    async def _played(self) -> None:
        """Wait until all that was sent is played."""
        while self.playout.ahead_ms(now := self._clock()) > REPORT_STEP_MS:
            await self._wait(max(0.005, self.playout.dry_in(now)) if not self.playout.reported else REPORT_POLL_S)

    async def _wait(self, seconds: float) -> None:
        """Until the client reports progress, at most so long."""
        self._progress.clear()
        try:
            async with asyncio.timeout(seconds):
                await self._progress.wait()
        except TimeoutError:
            return


def _drop(_: ToClient) -> None:
    """The utterance is closed."""
