"""The messages between a client and the orchestrator (the ingest socket).

Each is one msgpack array: `[kind, session, generation, sequence, …]`. `docs/protocol.md` describes them byte by byte.

`session` is chosen by the client and unguessable; `generation` is the reply attempt that a message belongs to and only
rises; `sequence` counts a sender's messages of one session from 0, over all kinds.
"""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from protocol.audio import AudioFormat
from protocol.codec import Codec
from protocol.errors import Category
from protocol.limits import MAX_ID_LENGTH, MAX_INGEST_BYTES, MAX_TEXT_LENGTH, PROTOCOL_VERSION

SessionId = Annotated[str, Meta(min_length=1, max_length=MAX_ID_LENGTH)]
Count = Annotated[int, Meta(ge=0)]
AgentState = Literal["listening", "thinking", "speaking"]
UserState = Literal["silent", "speaking"]
Speaker = Literal["user", "agent"]
Outcome = Literal["completed", "interrupted", "failed", "nothing_heard", "no_reply"]


class IngestMessage(msgspec.Struct, array_like=True, gc=False, tag=True):
    """What every ingest message starts with, after its kind."""

    session: SessionId
    generation: Count
    sequence: Count


# --- from the client -------------------------------------------------------------------------------------------------


class Open(IngestMessage, tag="open"):
    """Start a session. Must be the first message that names it."""

    version: tuple[int, int] = PROTOCOL_VERSION
    input: AudioFormat = AudioFormat()
    output: AudioFormat = AudioFormat()
    reports_played: bool = False  # the client sends `played`; otherwise what it has played is reckoned by the clock
    user: Annotated[str, Meta(max_length=MAX_ID_LENGTH)] = ""
    metadata: dict[Annotated[str, Meta(max_length=MAX_ID_LENGTH)], Annotated[str, Meta(max_length=1024)]] = {}


class Audio(IngestMessage, tag="audio"):
    """Sound, in both directions. From the orchestrator, `last` marks the end of a reply (its pcm may be empty)."""

    pcm: bytes
    last: bool = False


class Text(IngestMessage, tag="text"):
    """A turn of the user in writing."""

    text: Annotated[str, Meta(min_length=1, max_length=MAX_TEXT_LENGTH)]


class Interrupt(IngestMessage, tag="interrupt"):
    """Stop the agent's reply."""


class Played(IngestMessage, tag="played"):
    """How much of this generation's audio has been played."""

    played_ms: Count


class Close(IngestMessage, tag="close"):
    """End the session."""

    reason: Annotated[str, Meta(max_length=200)] = ""


class Ping(IngestMessage, tag="ping"):
    """Nothing to say, but still here. Answered by `pong`."""


# --- from the orchestrator -------------------------------------------------------------------------------------------


class Opened(IngestMessage, tag="opened"):
    """The session runs. `until_ms` is the first credit."""

    version: tuple[int, int]
    epoch: str
    orchestrator: str
    until_ms: Count


class Credit(IngestMessage, tag="credit"):
    """The client may send audio up to this position, in milliseconds since the session's first sample."""

    until_ms: Count


class Transcript(IngestMessage, tag="transcript"):
    """What was said: by the user as it is heard (partial, then final), by the agent as it is spoken.

    `turn` counts the user's turns from 1. A final of the agent holds what was heard, and `interrupted` says
    whether it was cut off.
    """

    turn: Count
    speaker: Speaker
    text: str
    final: bool
    interrupted: bool = False


class State(IngestMessage, tag="state"):
    """Who is doing what. A `generation` that rose means: drop all older audio."""

    agent: AgentState
    user: UserState


class Clear(IngestMessage, tag="clear"):
    """The reply before `generation` was interrupted: stop playing it and drop what is queued."""

    heard_ms: Count


class StageTimes(msgspec.Struct, array_like=True, gc=False):
    """Where the time of a turn went, in milliseconds; the parts add up to `total_ms`. -1: this stage did not run.

    `endpointing_ms` is the silence waited for after the last speech; `stt_ms` what the final transcript took beyond
    that; `llm_ms` until the first piece of text for TTS was complete (`llm_first_token_ms` of it until the first
    token); `tts_ms` until the first frame of audio was sent to the client.
    """

    endpointing_ms: float = -1.0
    stt_ms: float = -1.0
    llm_ms: float = -1.0
    llm_first_token_ms: float = -1.0
    tts_ms: float = -1.0
    total_ms: float = -1.0


class Metrics(IngestMessage, tag="metrics"):
    """The figures of one turn, sent when it has ended.

    `outcome`: `completed`, `interrupted`, `failed` (an `error` said why), `nothing_heard` (speech was detected but no
    words were recognised), `no_reply`. `speech_end_ms` is where in the client's audio the speech ended, so that the
    client can find when it sent it; -1 for a text turn.
    """

    turn: Count
    outcome: Outcome
    speech_end_ms: int
    stages: StageTimes
    audio_ms: Count = 0  # agent audio that was sent
    heard_ms: Count = 0  # of it, what was played


class Error(IngestMessage, tag="error"):
    """Something went wrong; `message` is a sentence for a person. `session` may be empty: about no session."""

    session: Annotated[str, Meta(max_length=MAX_ID_LENGTH)]
    code: str
    category: Category
    message: str


class Closed(IngestMessage, tag="closed"):
    """The session has ended; nothing more follows."""

    reason: str


class Pong(IngestMessage, tag="pong"):
    """Answer to `ping`."""

    session: Annotated[str, Meta(max_length=MAX_ID_LENGTH)]


FromClient = Open | Audio | Text | Interrupt | Played | Close | Ping
ToClient = Opened | Credit | Audio | Transcript | State | Clear | Metrics | Error | Closed | Pong

FROM_CLIENT: Codec[FromClient] = Codec(FromClient, MAX_INGEST_BYTES)
TO_CLIENT: Codec[ToClient] = Codec(ToClient, MAX_INGEST_BYTES)
