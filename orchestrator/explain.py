"""What the client may be told of an exception of the engines or of a user's code."""

from __future__ import annotations

import logging

from protocol.errors import AntiphonError, EngineError

log = logging.getLogger(__name__)


def explain(error: Exception, what: str) -> AntiphonError:
    """Our own errors as they are. Another one is logged with its traceback, and told as a fatal `EngineError`.

    `what` begins the sentence that says what has failed: "the reply failed".
    """
    if isinstance(error, AntiphonError):
        return error
    log.error("%s", what, exc_info=error)
    wrapped = EngineError(f"{what}: {type(error).__name__}: {error}", category="fatal")
    wrapped.__cause__ = error
    return wrapped
