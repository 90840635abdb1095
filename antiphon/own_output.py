"""Standard output of a command in which a person's own code runs: what that code prints must not get in between."""

from __future__ import annotations

import io
import os
from collections.abc import Callable
from typing import TextIO


class Apart(io.TextIOBase):
    """Stands in for `sys.stdout`: whole lines are given to `show`, in whatever thread they are printed.

    All else that is asked of it, the real one answers: `input()` looks for a terminal.
    """

    def __init__(self, real: TextIO, show: Callable[[str], None]) -> None:
        self._real = real
        self._show = show
        self._begun = ""

    def write(self, text: str) -> int:
        """Keep what is no whole line yet."""
        *lines, self._begun = (self._begun + text).split("\n")
        for line in lines:
            self._show(line)
        return len(text)

    def writable(self) -> bool:
        """It is."""
        return True

    def fileno(self) -> int:
        """The real one's."""
        return self._real.fileno()

    def isatty(self) -> bool:
        """Whether the real one is a terminal."""
        return self._real.isatty()

    @property
    def encoding(self) -> str:  # type: ignore[override]  # typeshed has it as an attribute
        """The real one's."""
        return self._real.encoding

    @property
    def errors(self) -> str | None:  # type: ignore[override]  # as above
        """The real one's."""
        return self._real.errors


def abandon(output: TextIO) -> None:
    """Nobody reads it any more: what is still written goes nowhere, and raises nothing when the process ends."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, output.fileno())
    os.close(nowhere)
