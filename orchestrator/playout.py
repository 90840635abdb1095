"""What the client has been sent of a reply and what of it has been played. Sans I/O: it is told the time.

A client that reports what it plays is believed. For one that does not, the clock is: it plays from the moment it
receives, without stopping until it runs dry. One that promised reports and sends none is taken to be
`REPORT_GRACE_MS` behind the clock, so that nobody waits for it for ever.
"""

from __future__ import annotations

REPORT_GRACE_MS = 3_000


class Playout:
    """The audio of one reply on its way to the client. Milliseconds, from the reply's first sample."""

    def __init__(self, *, reported: bool) -> None:
        self.reported = reported
        self._played_ms = 0.0
        self._dry_at = 0.0  # when the client will have played all that it was sent; seconds
        self.sent_ms = 0.0

    def sent(self, now: float, duration_ms: float) -> None:
        """So much more was sent."""
        self._played_ms = self.played_ms(now)  # what counts as played stays played, though the clock starts anew
        self.sent_ms += duration_ms
        self._dry_at = max(self._dry_at, now) + duration_ms / 1000

    def report(self, played_ms: float) -> None:
        """The client has played so much. Never less than before, never more than was sent."""
        self._played_ms = max(self._played_ms, min(played_ms, self.sent_ms))

    def played_ms(self, now: float) -> float:
        """What the client has played."""
        by_clock = max(0.0, self.sent_ms - max(0.0, self._dry_at - now) * 1000)
        if not self.reported:
            return by_clock
        overdue = max(0.0, now - self._dry_at) * 1000  # the clock goes on when all was sent
        return max(self._played_ms, min(self.sent_ms, by_clock + overdue - REPORT_GRACE_MS))

    def ahead_ms(self, now: float) -> float:
        """What was sent and is not yet played."""
        return self.sent_ms - self.played_ms(now)

    def dry_in(self, now: float) -> float:
        """Seconds until all is played, by the clock."""
        return max(0.0, self._dry_at - now)
