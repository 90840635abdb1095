"""One whole exchange with an orchestrator: connect, send everything, say goodbye, and what came of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from antiphon.conversation import Conversation, Watcher
from antiphon.reply_file import ReplyFile
from antiphon.sound_file import SoundFile, session_rate
from antiphon.turns import Turn
from protocol.audio import AudioFormat
from protocol.client import Client
from protocol.errors import AntiphonError
from protocol.ingest import Error

OPEN_TIMEOUT_S = 5.0  # a person waits


@dataclass(frozen=True)
class Exchange:
    """What is to be sent, where, and how."""

    endpoints: Sequence[str]
    files: Sequence[SoundFile] = ()
    texts: Sequence[str] = ()
    fast: bool = False
    user: str = ""
    metadata: dict[str, str] = field(default_factory=dict)
    output: AudioFormat = field(default_factory=AudioFormat)


@dataclass
class Result:
    """What came of it. `failure`: what ended it early; `silent`: files without speech."""

    session: str = ""
    orchestrator: str = ""
    turns: list[Turn] = field(default_factory=list)
    silent: list[str] = field(default_factory=list)
    errors: list[Error] = field(default_factory=list)
    failure: AntiphonError | None = None

    @property
    def answered(self) -> bool:
        """Everything was heard, and answered aloud."""
        return self.failure is None and not self.silent and bool(self.turns) and all(turn.ok for turn in self.turns)

    def document(self) -> dict[str, Any]:
        """For `--json`."""
        errors = [{"code": one.code, "category": one.category, "message": one.message} for one in self.errors]
        if self.failure is not None:
            errors.append({"code": self.failure.code, "category": self.failure.category, "message": str(self.failure)})
        return {
            "session": self.session or None,
            "orchestrator": self.orchestrator or None,
            "turns": [turn.document() for turn in self.turns],
            "silent_files": self.silent,
            "errors": errors,
        }


async def hold(exchange: Exchange, watcher: Watcher, reply_file: ReplyFile | None = None) -> Result:
    """Hold the conversation. An `AntiphonError` ends it early and is part of the result.

    Cancelling closes the session politely.
    """
    result = Result()
    input = AudioFormat(session_rate(exchange.files)) if exchange.files else AudioFormat()
    try:
        client = await Client.connect(
            exchange.endpoints,
            input=input,
            output=exchange.output,
            user=exchange.user,
            metadata=exchange.metadata,
            reports_played=exchange.fast,
            open_timeout_s=OPEN_TIMEOUT_S,
        )
        async with client:
            conversation = Conversation(
                client, input, exchange.output, fast=exchange.fast, watcher=watcher, reply_file=reply_file
            )
            result.turns, result.errors = conversation.turns.all, conversation.turns.errors
            result.silent = conversation.silent
            result.session, result.orchestrator = client.session, client.opened.orchestrator
            await conversation.run(exchange.files, exchange.texts)
    except AntiphonError as error:
        result.failure = error
    return result
