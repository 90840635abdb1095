"""The messages between the orchestrator and a node (the nodes socket).

Each is one msgpack array: `[kind, stream, generation, sequence, …]`. `stream` is a number that the orchestrator chose
(0: about the node itself); `generation` is the reply attempt of the session that the stream serves; `sequence` counts
a sender's messages of one stream from 0.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from protocol.codec import Codec
from protocol.engine import EngineSpec, Service
from protocol.errors import Category
from protocol.limits import MAX_ID_LENGTH, MAX_NODE_BYTES, MAX_PIECE_LENGTH, PROTOCOL_VERSION

Name = Annotated[str, Meta(min_length=1, max_length=MAX_ID_LENGTH)]
Count = Annotated[int, Meta(ge=0)]
NodeState = Literal["loading", "ready", "draining"]


class NodeMessage(msgspec.Struct, array_like=True, gc=False, tag=True):
    """What every message of this socket starts with, after its kind."""

    stream: Count
    generation: Count
    sequence: Count


# --- what an llm stream is asked -------------------------------------------------------------------------------------


class FunctionCall(msgspec.Struct, array_like=True):
    """A function that the LLM wants called. `arguments` is JSON text."""

    call_id: str
    name: str
    arguments: str


class ChatItem(msgspec.Struct, array_like=True):
    """One entry of the conversation as an LLM sees it.

    `role` "system", "user", "assistant" carry `text`; an "assistant" may instead carry `call`; a "function" item is the
    output of the call whose id is `call_id`.
    """

    role: Literal["system", "user", "assistant", "function"]
    text: str = ""
    call: FunctionCall | None = None
    call_id: str = ""


class FunctionSchema(msgspec.Struct, array_like=True):
    """A function that is offered to the LLM. `parameters` is a JSON schema of type object."""

    name: str
    description: str
    parameters: dict[str, Any]


# --- from the orchestrator -------------------------------------------------------------------------------------------


class Welcome(NodeMessage, tag="welcome"):
    """Answer to `register`."""

    version: tuple[int, int]
    orchestrator: str
    epoch: str


class Refused(NodeMessage, tag="refused"):
    """Answer to `register` when the node can't be taken: another version, or a name that is in use."""

    code: str
    message: str


class Beat(NodeMessage, tag="beat"):
    """Answer to `heartbeat`: the orchestrator lives."""


class OpenStream(NodeMessage, tag="open"):
    """Start a stream. With `probe`, only check the options and say so; no slot is taken.

    `sample_rate`: of the audio that vad and stt will be sent, in Hz; for tts and llm 0.
    """

    session: str
    spec: EngineSpec
    probe: bool = False
    sample_rate: Count = 0


class AudioIn(NodeMessage, tag="audio"):
    """Sound for vad or stt."""

    pcm: bytes


class Flush(NodeMessage, tag="flush"):
    """No more audio of this segment follows: send its final transcript. Segments count from 1."""

    segment: Count


class Generate(NodeMessage, tag="generate"):
    """Ask an llm stream for its reply."""

    chat: list[ChatItem]
    functions: list[FunctionSchema] = []


class Speak(NodeMessage, tag="speak"):
    """A piece of text for a tts stream. Pieces count from 0; `last`: none follows."""

    piece: Count
    text: Annotated[str, Meta(max_length=MAX_PIECE_LENGTH)]
    last: bool = False


class Allow(NodeMessage, tag="credit"):
    """A tts stream may send audio up to this position, in milliseconds since the stream's first sample."""

    until_ms: Count


class CloseStream(NodeMessage, tag="close"):
    """Drop the stream and all it still does. Safe to repeat; nothing is answered."""


# --- from a node -----------------------------------------------------------------------------------------------------


class Register(NodeMessage, tag="register"):
    """First message on every connection. `sample_rates`: what the engine takes or (tts) makes, best first.

    `finds_speech`: an stt engine that streams, and itself finds where speech begins and ends: it needs no vad.
    """

    service: Service
    engine: Name
    name: Name
    epoch: Name
    pid: Count
    host: str
    slots: Annotated[int, Meta(ge=1)]
    state: NodeState
    sample_rates: list[int] = []
    version: tuple[int, int] = PROTOCOL_VERSION
    finds_speech: bool = False


class Heartbeat(NodeMessage, tag="heartbeat"):
    """Every `HEARTBEAT_MS`, from the loop that does the work. `used` counts this node's streams over all orchestrators.

    `lag_ms` is how late this heartbeat is: what the node's loop was busy with.
    """

    state: NodeState
    used: Count
    lag_ms: Count = 0


class Goodbye(NodeMessage, tag="goodbye"):
    """The node leaves; it has no streams left."""


class StreamOpened(NodeMessage, tag="opened"):
    """The stream (or the probe) is accepted. `sample_rate`: of the audio that a tts stream will send, in Hz."""

    sample_rate: Count = 0


class StreamError(NodeMessage, tag="error"):
    """The stream has failed and is gone."""

    code: str
    category: Category
    message: str


class StreamDone(NodeMessage, tag="done"):
    """An llm or tts stream has sent all it had to send, and is gone."""


class Taken(NodeMessage, tag="credit"):
    """A vad or stt stream may be sent audio up to this position, in milliseconds since the stream's first sample."""

    until_ms: Count


class Speech(NodeMessage, tag="speech"):
    """What a vad stream has seen. `at_ms` is a position in the stream's audio.

    `start`: speech began at `at_ms`. `end`: it ended at `at_ms`, `silence_ms` ago. `silence`: it is still silent,
    `silence_ms` after the end at `at_ms`.
    """

    event: Literal["start", "end", "silence"]
    at_ms: Count
    silence_ms: Count = 0


class TranscriptOut(NodeMessage, tag="transcript"):
    """What an stt stream has recognised of a segment so far. A segment has exactly one final."""

    segment: Count
    text: str
    final: bool
    confidence: float = 1.0


class Chunk(NodeMessage, tag="chunk"):
    """A part of an llm stream's reply: text to append, or a whole function call."""

    text: str = ""
    call: FunctionCall | None = None


class AudioOut(NodeMessage, tag="audio"):
    """Sound of a tts stream. `last`: the piece's audio is complete (its pcm may be empty)."""

    piece: Count
    pcm: bytes
    last: bool = False


class Word(msgspec.Struct, array_like=True, gc=False):
    """Where a word starts: in the audio of its piece (ms), and in the piece's text (characters)."""

    at_ms: int
    offset: int


class Words(NodeMessage, tag="words"):
    """Word times of a piece, from engines that have them. Sent before the piece's last audio."""

    piece: Count
    words: list[Word]


ToNode = Welcome | Refused | Beat | OpenStream | AudioIn | Flush | Generate | Speak | Allow | CloseStream
FromNode = (
    Register
    | Heartbeat
    | Goodbye
    | StreamOpened
    | StreamError
    | StreamDone
    | Taken
    | Speech
    | TranscriptOut
    | Chunk
    | AudioOut
    | Words
)

TO_NODE: Codec[ToNode] = Codec(ToNode, MAX_NODE_BYTES)
FROM_NODE: Codec[FromNode] = Codec(FromNode, MAX_NODE_BYTES)
