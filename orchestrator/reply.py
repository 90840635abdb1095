"""One reply of the agent, from the chat context to the last millisecond that the client has played.

Runs as one task, which the session owns and cancels on an interruption. What was heard is known at any time.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing
from typing import TYPE_CHECKING, Any, cast

from orchestrator.output_audio import OutputAudio
from orchestrator.playout import Playout
from orchestrator.speech import Speech
from orchestrator.stages import running
from protocol.audio import AudioFormat
from protocol.ingest import Audio, ToClient, Transcript
from protocol.limits import PLAYOUT_AHEAD_MS

if TYPE_CHECKING:
    from orchestrator.chat import ChatContext
    from orchestrator.stages import Stages
    from orchestrator.task import AgentTask

REFILL_MS = 200  # the client's buffer is topped up in steps, not with a wake-up for every frame
REPORT_STEP_MS = 1.0  # clients report whole milliseconds
REPORT_POLL_S = 0.25  # how often a client that owes a report is looked after


class Reply:
    """The pipeline `llm_node → transcription_node → tts_node` of one generation, and its playout."""

    def __init__(
        self,
        *,
        turn: int,
        generation: int,
        output: AudioFormat,
        reports_played: bool,
        send: Callable[[ToClient], None],
        on_speaking: Callable[[int], None],
    ) -> None:
        self.turn = turn
        self.generation = generation
        self.speech = Speech()
        self.playout = Playout(reported=reports_played)
        self.first_token_at = self.first_piece_at = self.first_audio_at = 0.0  # monotonic seconds; 0: not yet
        self._format = output
        self._output = OutputAudio(output)
        self._send = send
        self._on_speaking = on_speaking
        self._progress = asyncio.Event()
        self._shown = ""
        self._silent_text = ""  # what a reply without audio says

    async def run(self, task: AgentTask, stages: Stages, chat: ChatContext) -> None:
        """Make the reply, send it at the pace at which it is played, and return when all was played.

        Raises what the engines or the task's nodes raise. Cancelling stops the engines' streams at once.
        """
        stages.on_piece = self._note_piece
        running.set(stages)
        text = self._text(task, chat)
        if stages.speaks:
            async with aclosing(cast(Any, task.tts_node(text))) as frames:
                async for frame in frames:
                    self._deliver(self._output.push(frame))
                    await self._room()
            self._deliver(self._output.flush())
            self._send(Audio("", self.generation, 0, b"", True))
        else:
            async for part in text:
                self._silent_text += part
                self._show(self._silent_text)
        await self._played()

    def report_played(self, played_ms: float) -> None:
        """The client has played so much of this reply."""
        self.playout.report(played_ms)
        self._progress.set()

    def heard_text(self) -> str:
        """What the user has heard (or read) so far."""
        if self._silent_text:
            return self._silent_text.strip()
        return self.speech.heard(self.playout.played_ms(time.monotonic()))

    async def _text(self, task: AgentTask, chat: ChatContext) -> AsyncIterator[str]:
        async with aclosing(cast(Any, task.transcription_node(self._tokens(task, chat)))) as parts:
            async for part in parts:
                yield part

    async def _tokens(self, task: AgentTask, chat: ChatContext) -> AsyncIterator[str]:
        async with aclosing(cast(Any, task.llm_node(chat))) as chunks:
            async for chunk in chunks:
                if not self.first_token_at:
                    self.first_token_at = time.monotonic()
                if chunk.text:
                    yield chunk.text

    def _note_piece(self) -> None:
        self.first_piece_at = time.monotonic()

    def _deliver(self, frames: list[bytes]) -> None:
        for pcm in frames:
            self._send(Audio("", self.generation, 0, pcm))
            now = time.monotonic()
            self.playout.sent(now, self._format.duration_ms(len(pcm)))
            if not self.first_audio_at:
                self.first_audio_at = now
                self._on_speaking(self.generation)
        if frames:
            self._show(self.speech.spoken(self.playout.sent_ms))

    def _show(self, text: str) -> None:
        if text != self._shown:
            self._shown = text
            self._send(Transcript("", self.generation, 0, self.turn, "agent", text.strip(), False))

    async def _room(self) -> None:
        """Wait while the client has enough to play."""
        while (ahead := self.playout.ahead_ms(time.monotonic())) > PLAYOUT_AHEAD_MS:
            await self._wait(max(REFILL_MS, ahead - PLAYOUT_AHEAD_MS + REFILL_MS) / 1000)

    async def _played(self) -> None:
        """Wait until all that was sent is played."""
        while self.playout.ahead_ms(now := time.monotonic()) > REPORT_STEP_MS:
            await self._wait(max(0.005, self.playout.dry_in(now)) if not self.playout.reported else REPORT_POLL_S)

    async def _wait(self, seconds: float) -> None:
        """Until the client reports progress, at most so long."""
        self._progress.clear()
        try:
            async with asyncio.timeout(seconds):
                await self._progress.wait()
        except TimeoutError:
            return
