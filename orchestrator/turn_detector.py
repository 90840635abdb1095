"""TurnDetector: what a user may give to judge whether the caller has finished."""

from __future__ import annotations

import asyncio
import logging
from typing import Protocol, runtime_checkable

from orchestrator.chat import ChatContext

log = logging.getLogger(__name__)


@runtime_checkable
class TurnDetector(Protocol):
    """Judges, when it has been silent for `min_endpointing_delay`, whether the caller's turn is complete.

    `threshold`: below this probability the turn is kept open until `max_endpointing_delay` after the speech. A
    detector that fails, or is slower than that, never holds a turn any longer.
    """

    threshold: float

    async def predict_end_of_turn(self, chat_ctx: ChatContext) -> float:
        """The probability (0 to 1) that the last message, which is the caller's, is complete."""


async def is_complete(detector: TurnDetector, chat: ChatContext, text: str, timeout_s: float) -> bool:
    """Whether the caller, who has just said this, has finished. A detector that fails, or is slow, says yes."""
    asked = chat.copy()
    asked.add_message("user", text)
    try:
        async with asyncio.timeout(timeout_s):
            return await detector.predict_end_of_turn(asked) >= detector.threshold
    except Exception:
        log.exception("the turn detector failed; the turn is taken to be complete")
        return True
