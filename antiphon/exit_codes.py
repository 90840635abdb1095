"""What the exit code of a command says. From sysexits.h where that has a word for it."""

from __future__ import annotations

from typing import Final

from protocol.errors import AntiphonError, Unavailable

OK: Final = 0
FAILED: Final = 1
USAGE: Final = 2  # click's own
NOT_RUNNING: Final = 3  # `status`: nothing runs here
NO_INPUT: Final = 66  # EX_NOINPUT: a file cannot be read
UNAVAILABLE: Final = 69  # EX_UNAVAILABLE: nobody answers, or not just now
CANNOT_CREATE: Final = 73  # EX_CANTCREAT: a file cannot be written
CONFIGURATION: Final = 78  # EX_CONFIG: trying again cannot help
INTERRUPTED: Final = 130  # Ctrl-C, as a shell counts it


class UnreadableInput(AntiphonError):
    """A file that a command was given cannot be read."""

    code = "unreadable_input"
    category = "configuration"


class UnwritableOutput(AntiphonError):
    """A file that a command was to write cannot be written."""

    code = "unwritable_output"
    category = "configuration"


def of(error: AntiphonError) -> int:
    """The exit code that says who can act on this error."""
    if isinstance(error, UnreadableInput):
        return NO_INPUT
    if isinstance(error, UnwritableOutput):
        return CANNOT_CREATE
    if error.category == "configuration":
        return CONFIGURATION
    if isinstance(error, Unavailable) or error.category == "retryable":
        return UNAVAILABLE
    return FAILED
