"""How fast recorded audio is sent: as a microphone would, or as fast as it is taken."""

from __future__ import annotations

import asyncio
import time
from abc import ABC, abstractmethod

STALL_S = 0.5  # so far behind, the clock is set anew: a burst would only make the other side seem slow


class Pace(ABC):
    """Awaited before each frame is sent."""

    @abstractmethod
    async def wait(self, duration_ms: float) -> None:
        """Until a frame of this length may be sent. Safe to cancel."""


class RealTime(Pace):
    """One frame after the other, each at its own deadline: errors of single waits do not add up."""

    def __init__(self) -> None:
        self._due = 0.0

    async def wait(self, duration_ms: float) -> None:
        """Until the frames that were sent before have been spoken."""
        now = time.monotonic()
        if now - self._due > STALL_S:
            self._due = now
        if self._due > now:
            await asyncio.sleep(self._due - now)
        self._due += duration_ms / 1000


class Fast(Pace):
    """No waiting: credit alone holds the sender back."""

    async def wait(self, duration_ms: float) -> None:
        """Only lets others run."""
        await asyncio.sleep(0)
