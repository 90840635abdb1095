"""What the default pipeline nodes do: ask the llm, cut its text into pieces, have tts speak them; recognise speech."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterable, AsyncIterator, Callable
from contextvars import ContextVar
from dataclasses import dataclass
from typing import TYPE_CHECKING

from orchestrator.chat import ChatChunk, ChatContext, FunctionCall
from orchestrator.chat_request import chat_request
from orchestrator.engines import Engines
from orchestrator.sentences import SentenceCutter
from orchestrator.speech import Speech
from orchestrator.streams import NodeStream, Pool, StreamQueue
from protocol.audio import AudioFrame
from protocol.engine import EngineSpec
from protocol.limits import TTS_AHEAD_MS
from protocol.node import Allow, AudioIn, AudioOut, Chunk, Flush, Generate, Speak, TranscriptOut, Words

if TYPE_CHECKING:
    from orchestrator.functions import FunctionContext

CREDIT_STEP_MS = 500

# The stages that the default nodes use in this context: each utterance and each run of speech has one of its own.
running: ContextVar[Stages] = ContextVar("antiphon_stages")


@dataclass(frozen=True, slots=True)
class SpeechEvent:
    """What stt has recognised of a run of speech so far. The last one is `final`."""

    text: str
    final: bool = False
    confidence: float = 1.0


class Stages:
    """The engines of one utterance. Streams are opened when they are needed and closed with what needs them."""

    def __init__(
        self, pool: Pool, engines: Engines, *, session: str, generation: int, speech: Speech, instructions: str = ""
    ) -> None:
        self._pool = pool
        self._engines = engines
        self._session = session
        self._generation = generation
        self._speech = speech
        self._instructions = instructions
        self.on_piece: Callable[[], None] = _nobody  # the first piece of text goes to tts

    async def stt(self, audio: AsyncIterable[AudioFrame]) -> AsyncIterator[SpeechEvent]:
        """Recognise one run of speech: partials while its audio comes, its final when that has ended."""
        spec = self._engines.stt
        if spec is None:
            return
        frames = aiter(audio)
        first = await anext(frames, None)
        if first is None:
            return
        with StreamQueue() as queue:
            stream = await queue.opened(self._opener(spec, first.sample_rate))
            feeder = asyncio.create_task(_feed_stt(stream, first, frames))
            feeder.add_done_callback(lambda task: self._pass_failure(task, queue))
            try:
                async for message in queue:
                    if isinstance(message, TranscriptOut):
                        yield SpeechEvent(message.text, message.final, message.confidence)
                        if message.final:
                            return
            finally:
                feeder.cancel()
                await asyncio.gather(feeder, return_exceptions=True)

    async def llm(self, chat: ChatContext, functions: FunctionContext) -> AsyncIterator[ChatChunk]:
        """Stream the llm's reply to this context."""
        spec = self._engines.llm
        if spec is None:
            return
        with StreamQueue() as queue:
            stream = await queue.opened(self._opener(spec))
            stream.send(Generate(0, 0, 0, chat_request(self._instructions, chat), functions.schemas()))
            async for message in queue:
                if isinstance(message, Chunk):
                    call = message.call
                    yield ChatChunk(
                        message.text,
                        FunctionCall(call.name, call.arguments, call.call_id) if call is not None else None,
                    )

    async def tts(self, text: AsyncIterable[str]) -> AsyncIterator[AudioFrame]:
        """Stream the audio of the text, piece by piece as it comes."""
        spec = self._engines.tts
        if spec is None:
            return
        with StreamQueue() as queue:
            stream = await queue.opened(self._opener(spec))
            feeder = asyncio.create_task(self._feed(stream, text))
            feeder.add_done_callback(lambda task: self._pass_failure(task, queue))
            try:
                async for frame in self._listen(queue, stream):
                    yield frame
            finally:
                feeder.cancel()
                await asyncio.gather(feeder, return_exceptions=True)

    async def _feed(self, stream: NodeStream, text: AsyncIterable[str]) -> None:
        """Give tts the text in pieces."""
        cutter = SentenceCutter()
        async for part in text:
            for piece in cutter.feed(part):
                self._speak(stream, piece)
        for piece in cutter.flush():
            self._speak(stream, piece)
        self._speak(stream, "", last=True)

    def _speak(self, stream: NodeStream, piece: str, *, last: bool = False) -> None:
        if not self._speech.pieces and piece:
            self.on_piece()
        stream.send(Speak(0, 0, 0, self._speech.add_piece(piece), piece, last))

    async def _listen(self, queue: StreamQueue, stream: NodeStream) -> AsyncIterator[AudioFrame]:
        """The audio of the pieces, with credit given for what was taken."""
        taken_ms = credited_ms = 0.0
        async for message in queue:
            if isinstance(message, Words):
                self._speech.pieces[message.piece].words += message.words
            elif isinstance(message, AudioOut):
                frame = AudioFrame(message.pcm, stream.sample_rate)
                self._speech.add_audio(message.piece, frame.duration_ms, last=message.last)
                if frame.pcm:
                    yield frame
                taken_ms += frame.duration_ms
                if taken_ms - credited_ms >= CREDIT_STEP_MS:
                    credited_ms = taken_ms
                    stream.send(Allow(0, 0, 0, int(taken_ms) + TTS_AHEAD_MS))

    def _opener(self, spec: EngineSpec, sample_rate: int = 0) -> Callable[[StreamQueue], NodeStream]:
        return lambda queue: self._pool.open(
            spec, queue, session=self._session, generation=self._generation, sample_rate=sample_rate
        )

    @staticmethod
    def _pass_failure(feeder: asyncio.Task[None], queue: StreamQueue) -> None:
        """What fails while the text is made (the llm, a user's node) must end the reply that waits for its audio."""
        if not feeder.cancelled() and (error := feeder.exception()) is not None:
            queue.fail(error)


async def _feed_stt(stream: NodeStream, first: AudioFrame, rest: AsyncIterable[AudioFrame]) -> None:
    stream.send(AudioIn(0, 0, 0, first.pcm))
    async for frame in rest:
        stream.send(AudioIn(0, 0, 0, frame.pcm))
    stream.send(Flush(0, 0, 0, 1))


def _nobody() -> None:
    """Nobody asked when the first piece goes."""
