"""Exit codes say who can act."""

from __future__ import annotations

import pytest

from antiphon import exit_codes
from protocol.errors import (
    AntiphonError,
    ConfigurationError,
    ConnectionLost,
    EngineError,
    Malformed,
    Overloaded,
    RemoteError,
    SessionEnded,
    VersionMismatch,
)


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (exit_codes.UnreadableInput("x"), 66),
        (exit_codes.UnwritableOutput("x"), 73),
        (ConnectionLost("x"), 69),
        (Overloaded("x"), 69),
        (RemoteError("overloaded", "retryable", "x"), 69),
        (EngineError("x"), 69),
        (ConfigurationError("x"), 78),
        (VersionMismatch("x"), 78),
        (RemoteError("bad_option", "configuration", "x"), 78),
        (Malformed("x"), 1),
        (SessionEnded("x"), 1),
        (EngineError("x", category="fatal"), 1),
    ],
)
def test_each_kind_of_error_has_its_code(error: AntiphonError, code: int) -> None:
    assert exit_codes.of(error) == code
