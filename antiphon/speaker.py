"""What a loudspeaker plays: a queue that the device's own thread empties, and how much of each reply it has played.

Pure bytes and a lock; knows no device and no session.
"""

from __future__ import annotations

import threading
from collections import deque

from protocol.audio import AudioFormat


class PlayQueue:
    """The agent's audio between the session (`push`, `clear`) and the device (`take`). Safe between threads."""

    def __init__(self, format: AudioFormat) -> None:
        self._format = format
        self._lock = threading.Lock()
        self._frames: deque[bytes] = deque()
        self._generation = 0
        self._played = 0  # bytes of this generation

    @property
    def played(self) -> tuple[int, int]:
        """The generation that is played, and how many milliseconds of it the device has taken."""
        with self._lock:
            return self._generation, int(self._format.duration_ms(self._played))

    def push(self, generation: int, pcm: bytes) -> None:
        """Append audio of this generation; a newer one clears what is older, and what is older is dropped."""
        with self._lock:
            if generation > self._generation:
                self._renew(generation)
            if generation == self._generation and pcm:
                self._frames.append(pcm)

    def clear(self, generation: int) -> None:
        """All before this generation is stale."""
        with self._lock:
            if generation > self._generation:
                self._renew(generation)

    def reset(self) -> None:
        """A new session: its generations start again."""
        with self._lock:
            self._renew(0)

    def take(self, size: int) -> bytes:
        """The next `size` bytes for the device; silence where there is nothing to play."""
        taken = bytearray()
        with self._lock:
            while self._frames and len(taken) < size:
                frame = self._frames.popleft()
                room = size - len(taken)
                taken += frame[:room]
                if len(frame) > room:
                    self._frames.appendleft(frame[room:])
            self._played += len(taken)
        return bytes(taken).ljust(size, b"\0")

    def _renew(self, generation: int) -> None:
        self._frames.clear()
        self._generation = generation
        self._played = 0
