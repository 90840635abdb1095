"""The log of a command in which a person's own code runs: short lines, and tracebacks without our own frames."""

from __future__ import annotations

import asyncio
import logging
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

_PACKAGES = Path(__file__).parent.parent
OURS = tuple(_PACKAGES / name for name in ("protocol", "services", "orchestrator", "antiphon"))
HIDDEN = (*OURS, Path(asyncio.__file__).parent)


class CompactLog(logging.Handler):
    """Gives each record, as text, to `show`, which may be called in any thread."""

    def __init__(self, show: Callable[[int, str], None]) -> None:
        super().__init__()
        self._show = show
        self.setFormatter(_Formatter("%(levelname)s %(name)s: %(message)s"))

    def emit(self, record: logging.LogRecord) -> None:
        """Raises nothing: what fails here is reported as logging does it."""
        try:
            self._show(record.levelno, self.format(record))
        except Exception:  # noqa: BLE001  # reported by logging
            self.handleError(record)


class _Formatter(logging.Formatter):
    def formatException(self, ei: Any) -> str:  # noqa: N802  # logging's name
        told = traceback.TracebackException(*ei)
        _shorten(told)
        return "".join(told.format()).rstrip()


def _shorten(told: traceback.TracebackException) -> None:
    """Leave out our own frames and those of the import system, unless there are no others."""
    others = [frame for frame in told.stack if not _is_hidden(frame.filename)]
    if others or told.exc_type is SyntaxError:  # which says itself where it is
        told.stack = traceback.StackSummary.from_list(others)
    for earlier in (told.__cause__, told.__context__):
        if earlier is not None:
            _shorten(earlier)


def _is_hidden(filename: str) -> bool:
    path = Path(filename)
    return filename.startswith("<frozen ") or any(path.is_relative_to(folder) for folder in HIDDEN)
