"""TurnDetector: what a user may give to judge whether the caller has finished."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

from orchestrator.chat import ChatContext


@runtime_checkable
class TurnDetector(Protocol):
    """Judges, when it has been silent for `min_endpointing_delay`, whether the caller's turn is complete.

    `threshold`: below this probability the turn is kept open until `max_endpointing_delay` after the speech. A
    detector that fails, or is slower than that, never holds a turn any longer.
    """

    threshold: float

    async def predict_end_of_turn(self, chat_ctx: ChatContext) -> float:
        """The probability (0 to 1) that the last message, which is the caller's, is complete."""
