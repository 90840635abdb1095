"""A task's own `stt_node`, given one segment of speech after the other."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from functools import partial

from orchestrator.engines import Engines
from orchestrator.explain import explain
from orchestrator.node_output import stream
from orchestrator.speech import Speech
from orchestrator.stages import SpeechEvent, Stages, running
from orchestrator.streams import Pool
from orchestrator.task import AgentTask
from protocol.audio import AudioFrame
from protocol.errors import AntiphonError

Recognise = partial[AsyncIterator[SpeechEvent]]
OnTranscript = Callable[[int, str, bool, AntiphonError | None], None]


async def recognise(
    pool: Pool, session: str, engines: Engines, task: AgentTask, audio: AsyncIterator[AudioFrame]
) -> AsyncIterator[SpeechEvent]:
    """What the task's `stt_node` makes of this run of speech. Raises what it raises."""
    running.set(Stages(pool, engines, session=session, generation=0, speech=Speech()))
    where = f"stt_node of {type(task).__name__}"
    async for event in stream(task.stt_node(audio), (SpeechEvent, str), where):
        yield SpeechEvent(event, final=True) if isinstance(event, str) else event


class OwnStt:
    """Runs the node for each segment, in an asyncio task of its own; `on_transcript` hears of what it gives.

    The last event counts as the final transcript, whether it says so or not.
    """

    def __init__(self, sample_rate: int, node: Recognise, on_transcript: OnTranscript) -> None:
        self._sample_rate = sample_rate
        self._node = node
        self._on_transcript = on_transcript
        self._frames: asyncio.Queue[AudioFrame | None] | None = None
        self._running: set[asyncio.Task[None]] = set()

    def begin(self, segment: int) -> None:
        """The audio that is pushed from now on belongs to this segment."""
        frames: asyncio.Queue[AudioFrame | None] = asyncio.Queue()
        self._frames = frames
        task = asyncio.get_running_loop().create_task(self._run(segment, frames), name=f"stt_node, segment {segment}")
        self._running.add(task)
        task.add_done_callback(self._running.discard)

    def push(self, pcm: bytes) -> None:
        """More of the segment's audio."""
        if self._frames is not None:
            self._frames.put_nowait(AudioFrame(pcm, self._sample_rate))

    def end(self) -> None:
        """The segment is complete."""
        if self._frames is not None:
            self._frames.put_nowait(None)
            self._frames = None

    def close(self) -> None:
        """Cancel what is under way; nothing more is heard of it."""
        for task in self._running:
            task.cancel()

    async def _run(self, segment: int, frames: asyncio.Queue[AudioFrame | None]) -> None:
        text = ""
        try:
            async for event in self._node(_drain(frames)):
                text = event.text
                if event.final:
                    break
                self._on_transcript(segment, text, False, None)
        except Exception as error:  # noqa: BLE001  # told to the client, and logged
            self._on_transcript(segment, "", True, explain(error, "the speech could not be recognised"))
            return
        self._on_transcript(segment, text, True, None)


async def _drain(frames: asyncio.Queue[AudioFrame | None]) -> AsyncIterator[AudioFrame]:
    while (frame := await frames.get()) is not None:
        yield frame
