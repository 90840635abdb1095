"""What was said: the chat context of a conversation. Knows nothing of engines or of how they want it written."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Literal
from uuid import uuid4

Role = Literal["system", "user", "assistant"]


@dataclass(slots=True)
class ChatMessage:
    """One thing that was said. An assistant's message holds what was *heard*; `interrupted`: it was cut off."""

    role: Role
    text: str
    interrupted: bool = False
    id: str = field(default_factory=lambda: uuid4().hex)
    created_at: float = field(default_factory=time.time)  # seconds since the epoch, UTC


@dataclass(slots=True)
class ChatContext:
    """The items of a conversation, oldest first."""

    items: list[ChatMessage] = field(default_factory=list)

    def add(self, role: Role, text: str, *, interrupted: bool = False) -> ChatMessage:
        """Append a message and return it."""
        message = ChatMessage(role, text, interrupted)
        self.items.append(message)
        return message

    def copy(self) -> ChatContext:
        """A context with the same items, whose list can be changed without changing this one."""
        return ChatContext(list(self.items))


@dataclass(slots=True)
class ChatChunk:
    """A part of an LLM's reply, as it streams."""

    text: str = ""
