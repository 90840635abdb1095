"""What an engine is, for each service. An engine's module subclasses one of these and names it `Engine`.

An engine module is importable without its model and its SDK: it imports them in `load()`. It holds

- the option object that users write (`VAD`, `STT`, `LLM` or `TTS`, an `EngineOptions`),
- `Engine`, a subclass of the class of its service below.

An engine knows nothing of sockets, sessions or streams. It runs in one event loop. What computes for longer than a few
milliseconds does so in a thread that releases the GIL or in a process of its own: the loop that runs these methods also
sends the node's heartbeats, and a node that is silent for 0.7 s is taken for dead.

Errors: raise `OptionError` for options, `EngineError` (with its category) for what fails while running. Anything else
is logged with its traceback and reported as fatal for that stream; the node lives on.

Cancellation: a stream that is closed cancels the task that awaits or iterates the engine. Release what you hold in
`finally`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from protocol.engine import EngineOptions
from protocol.node import ChatItem, Chunk, FunctionSchema, Word

Options = TypeVar("Options", bound=EngineOptions)


class Engine(ABC, Generic[Options]):
    """Base of all engines. Made once per node process."""

    options_type: ClassVar[type[EngineOptions]]
    sample_rates: ClassVar[tuple[int, ...]] = ()  # Hz; taken (vad, stt) or made (tts), best first
    default_slots: ClassVar[int] = 16  # streams at once, unless --slots says otherwise

    async def load(self, slots: int) -> None:
        """Load the model and warm it up; the node is READY when this returns.

        `slots` is how many streams may be open at once. Raises `EngineUnavailable` (the node exits with 78) when
        something must be installed or configured first.
        """

    async def check(self, options: Options) -> None:
        """Raise `OptionError` for what only the loaded engine can tell (an unknown voice, say)."""

    async def close(self) -> None:
        """Give back threads, processes and files."""


class VadStream(ABC):
    """The state of one conversation in a vad engine."""

    window: int  # samples that `VadEngine.process` takes of this stream at once


@dataclass(slots=True)
class VadWindow:
    """One window of one stream. `samples`: float32 in [-1, 1], shape (stream.window,)."""

    stream: VadStream
    samples: NDArray[np.float32]


class VadEngine(Engine[Options]):
    """Finds speech. Called with everything that is ready, over all conversations."""

    @abstractmethod
    def open(self, options: Options) -> VadStream:
        """A new stream's state."""

    @abstractmethod
    def process(self, windows: Sequence[VadWindow]) -> Sequence[float]:
        """Probability of speech in each window, in order. At most one window of each stream is in a call."""


@dataclass(frozen=True, slots=True)
class Final:
    """What an engine that finds speech itself has understood of an utterance that has ended."""

    text: str
    confidence: float = 1.0


class SttStream(ABC):
    """One conversation in an stt engine. The node calls its methods one at a time, in order."""

    @abstractmethod
    async def push(self, pcm: bytes) -> str | Final | None:
        """Take audio (16-bit, mono, at the stream's rate).

        Returns the transcript of this segment so far when it changed; an engine that finds speech itself returns a
        `Final` when the segment has ended. May wait: that is the back-pressure.
        """

    @abstractmethod
    async def flush(self) -> tuple[str, float]:
        """The segment is complete: its final transcript and a confidence from 0 to 1 (1.0 if unknown)."""

    @abstractmethod
    async def close(self) -> None:
        """Drop what is held. Called once, also after an error or a cancellation."""


class SttEngine(Engine[Options]):
    """Turns speech into text.

    `finds_speech`: it streams, and itself finds where speech begins and ends: it sends finals without being flushed.
    """

    finds_speech: ClassVar[bool] = False

    @abstractmethod
    async def open(self, options: Options, sample_rate: int) -> SttStream:
        """A new stream, for audio at `sample_rate` Hz (one of `sample_rates`)."""


class LlmEngine(Engine[Options]):
    """Writes the agent's replies."""

    @abstractmethod
    def generate(
        self, options: Options, chat: Sequence[ChatItem], functions: Sequence[FunctionSchema]
    ) -> AsyncIterator[Chunk]:
        """Stream the reply to `chat` as `text_chunk()` and `call_chunk()` give them."""


@dataclass(slots=True)
class Sound:
    """A part of a piece's audio: 16-bit mono PCM, any length; and the times of words, once known."""

    pcm: bytes = b""
    words: tuple[Word, ...] = ()


class TtsEngine(Engine[Options]):
    """Speaks."""

    @abstractmethod
    def synthesize(self, options: Options, text: str) -> AsyncIterator[Sound]:
        """Stream the audio of one piece of text at `sample_rate(options)`. Not called concurrently for one stream.

        The node cuts it into frames and holds it back under credit; an engine whose state is shared between streams
        must therefore not wait for its consumer while it holds that state.
        """

    def sample_rate(self, options: Options) -> int:
        """Rate of the audio, in Hz."""
        return self.sample_rates[0]


def text_chunk(text: str) -> Chunk:
    """A chunk of text; the node fills in the routing fields when it sends it."""
    return Chunk(0, 0, 0, text=text)


def call_chunk(call: Any) -> Chunk:
    """A chunk that calls a function (`protocol.node.FunctionCall`)."""
    return Chunk(0, 0, 0, call=call)
