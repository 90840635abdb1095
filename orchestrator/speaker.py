"""The agent's one mouth: what is to be said waits in line, is spoken by its task's nodes, and kept as it was heard."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterable, AsyncIterator, Callable
from functools import partial
from typing import Any, Protocol

from orchestrator.channel import Channel
from orchestrator.chat import ChatMessage
from orchestrator.engines import Engines
from orchestrator.frame import Frame
from orchestrator.node_output import stream
from orchestrator.speech_handle import SpeechHandle
from orchestrator.stages import running
from orchestrator.task import AgentTask
from orchestrator.utterance import Speak, Utterance
from protocol.audio import AudioFrame


class Place:
    """A place in line. Wait for its `front`, speak, `leave()` it."""

    def __init__(self, line: Line, handle: SpeechHandle) -> None:
        self.handle = handle
        self.utterance: Utterance | None = None
        self.front = asyncio.Event()
        self.on_over: Callable[[bool], None] | None = None  # keeps what was heard; told whether it was cut off
        self._line = line

    def cut(self) -> None:
        """Silence, now: what makes the speech may take a moment to end."""
        self.over(interrupted=True)
        self.leave()

    def over(self, *, interrupted: bool) -> None:
        """The speech has ended. Safe to repeat: the first time counts."""
        on_over, self.on_over = self.on_over, None
        if on_over is not None:
            on_over(interrupted)

    def leave(self) -> None:
        """Let the next one speak. Safe to repeat."""
        self._line.leave(self)


class Line:
    """First come, first served."""

    def __init__(self, changed: Callable[[], None]) -> None:
        self._places: deque[Place] = deque()
        self._changed = changed
        self._empty = asyncio.Event()
        self._empty.set()

    @property
    def current(self) -> Place | None:
        """Whose turn it is to speak."""
        return self._places[0] if self._places else None

    @property
    def handles(self) -> list[SpeechHandle]:
        """All that speak or wait to, in order."""
        return list(dict.fromkeys(place.handle for place in self._places))

    def join(self, handle: SpeechHandle) -> Place:
        """Stand at the end of the line."""
        place = Place(self, handle)
        self._places.append(place)
        self._empty.clear()
        self._call_up()
        return place

    def leave(self, place: Place) -> None:
        """Somebody has spoken, or won't."""
        if place in self._places:
            self._places.remove(place)
            self._call_up()
        if not self._places:
            self._empty.set()

    async def empty(self) -> None:
        """Until nobody speaks or waits to."""
        await self._empty.wait()

    def _call_up(self) -> None:
        if self._places:
            self._places[0].front.set()
        self._changed()


class Scene(Protocol):
    """What the speaker needs of the conversation."""

    @property
    def channel(self) -> Channel:
        """Where it is heard."""

    def engines_of(self, frame: Frame) -> Engines:
        """The engines that serve this task."""

    def record(self, frame: Frame, *items: Any) -> None:
        """Keep these in the chat contexts of the task and the agent."""

    def state_changed(self) -> None:
        """The agent may be doing something else now."""


class Speaker:
    """Speaks in the name of a task."""

    def __init__(self, scene: Scene) -> None:
        self._scene = scene
        self.line = Line(scene.state_changed)

    async def say(
        self,
        place: Place,
        frame: Frame,
        text: Callable[[Utterance], AsyncIterable[str]],
        *,
        instructions: Callable[[], str] | None = None,
        audio: AsyncIterable[AudioFrame] | None = None,
        remember: bool = True,
    ) -> Utterance:
        """Wait in line, then speak and return when it was played. `text` is called when the line has come to it.

        Raises what the nodes raise. Cancelling stops the speech at once; what was heard of it is kept all the same.
        """
        channel = self._scene.channel
        interrupted = False
        try:
            await place.front.wait()
            place.utterance = utterance = channel.open_utterance(place.handle.turn)
            place.handle._utterances.append(utterance)
            place.on_over = partial(self._over, frame, utterance, remember, time.time())
            engines = self._scene.engines_of(frame)
            stages = channel.stages(utterance, engines, instructions() if instructions is not None else "")
            stages.on_piece = utterance.note_piece
            running.set(stages)
            written = self._transcription(frame, text(utterance))
            await utterance.run(written, self._voice(frame, utterance, engines, audio))
        except asyncio.CancelledError:
            interrupted = True
            raise
        finally:
            place.over(interrupted=interrupted)
            place.leave()
        return utterance

    def _over(self, frame: Frame, utterance: Utterance, remember: bool, began: float, interrupted: bool) -> None:
        heard = utterance.heard_text()
        utterance.close()
        if heard and remember:
            self._scene.record(frame, ChatMessage("assistant", heard, interrupted, created_at=began))
        self._scene.channel.end_utterance(utterance, heard=heard, interrupted=interrupted)

    def _transcription(self, frame: Frame, text: AsyncIterable[str]) -> AsyncIterator[str]:
        task = frame.task
        return stream(task.transcription_node(text), (str,), f"transcription_node of {type(task).__name__}")

    def _voice(
        self, frame: Frame, utterance: Utterance, engines: Engines, audio: AsyncIterable[AudioFrame] | None
    ) -> Speak | None:
        """What turns text into sound: recorded audio, the task's node, or nothing."""
        task = frame.task
        if audio is not None and not self._scene.channel.text_only:
            return lambda text: _recorded(utterance, text, audio)
        own = type(task).tts_node is not AgentTask.tts_node
        if self._scene.channel.text_only or (engines.tts is None and not own):
            return None
        return lambda text: stream(task.tts_node(text), (AudioFrame,), f"tts_node of {type(task).__name__}")


async def _recorded(
    utterance: Utterance, text: AsyncIterable[str], audio: AsyncIterable[AudioFrame]
) -> AsyncIterator[AudioFrame]:
    """Audio that is there already, for this text."""
    piece = utterance.speech.add_piece("".join([part async for part in text]))
    async for frame in stream(audio, (AudioFrame,), "the audio of say()"):
        utterance.speech.add_audio(piece, frame.duration_ms, last=False)
        yield frame
    utterance.speech.add_audio(piece, 0.0, last=True)
