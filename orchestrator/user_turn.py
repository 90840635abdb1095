"""A turn of the user on its way from its end to the end of its reply. State only."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from orchestrator.timeline import TurnTimes

if TYPE_CHECKING:
    from orchestrator.frame import Frame


@dataclass(eq=False)
class UserTurn:
    """`speech_end_ms`: where its speech ended in the client's audio; -1 for a turn in writing."""

    number: int
    text: str
    times: TurnTimes
    speech_end_ms: float = -1.0
    committed_at: float = field(default_factory=time.time)  # seconds since the epoch
    asked: Frame | None = None  # the task that was current when it began
    unwanted: bool = False  # somebody asked for silence: no reply
