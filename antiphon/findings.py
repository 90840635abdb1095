"""What `antiphon doctor` finds: one finding is one line, and says what to do about it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Level = Literal["ok", "warning", "problem"]


@dataclass(frozen=True)
class Finding:
    """`about` names what was looked at, `what` says how it is, `do` what to do (empty when all is well)."""

    level: Level
    about: str
    what: str
    do: str = ""


def ok(about: str, what: str) -> Finding:
    """All is well."""
    return Finding("ok", about, what)


def warning(about: str, what: str, do: str) -> Finding:
    """It works, but not for everything."""
    return Finding("warning", about, what, do)


def problem(about: str, what: str, do: str) -> Finding:
    """It does not work."""
    return Finding("problem", about, what, do)
