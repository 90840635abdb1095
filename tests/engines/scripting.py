"""What all scripted engines share: the options that say how to behave, and a record of what was asked of them.

The environment says how a process behaves, the options of a stream how the stream does:

    SCRIPTED_LOAD_S       seconds that loading takes
    SCRIPTED_LOAD_ERROR   loading fails: "unavailable" with EngineUnavailable, anything else with a RuntimeError of it
    SCRIPTED_RECORD       a file; each line is one thing that was asked of an engine ("batch 3", "open", "close")
"""

from __future__ import annotations

import asyncio
import os
import time
from pathlib import Path
from typing import Annotated, Literal

from msgspec import Meta

from protocol.engine import EngineOptions
from protocol.errors import EngineError, EngineUnavailable

Count = Annotated[int, Meta(ge=0)]
Seconds = Annotated[float, Meta(ge=0)]


class Script(EngineOptions, frozen=True, kw_only=True):
    """How a stream behaves. Steps (a push, a chunk, a piece) count from 1 in each stream; 0 is none."""

    delay_s: Seconds = 0.0  # before each step
    fail_at: Count = 0  # this step fails
    fail_category: Literal["unexpected", "retryable", "configuration", "fatal"] = "fatal"
    hang_loop_s: Seconds = 0.0  # the first step blocks the node's loop for so long
    check_delay_s: Seconds = 0.0  # the options are looked at for so long
    voice: Literal["known", "unknown"] = "known"  # "unknown": refused once the engine looks at it


class Steps:
    """Counts one stream's steps, and does to each what the script says."""

    def __init__(self, script: Script) -> None:
        self._script = script
        self._taken = 0

    async def step(self) -> None:
        """The next step: waits, hangs or raises."""
        self._taken += 1
        if self._script.delay_s:
            await asyncio.sleep(self._script.delay_s)
        if self._taken == 1 and self._script.hang_loop_s:
            time.sleep(self._script.hang_loop_s)  # noqa: ASYNC251  # hanging is the point
        fail(self._taken == self._script.fail_at, self._script.fail_category)


def fail(wanted: bool, category: Literal["unexpected", "retryable", "configuration", "fatal"]) -> None:
    """Raise what the script says."""
    if wanted and category == "unexpected":
        raise RuntimeError("the script says so")
    if wanted and category != "unexpected":
        raise EngineError("the script says so", category=category)


async def load() -> None:
    """Load as the environment says."""
    await asyncio.sleep(float(os.environ.get("SCRIPTED_LOAD_S", "0")))
    error = os.environ.get("SCRIPTED_LOAD_ERROR")
    if error == "unavailable":
        raise EngineUnavailable("the scripted engine is not installed")
    if error:
        raise RuntimeError(error)


async def check(script: Script) -> None:
    """Check the options as they say."""
    await asyncio.sleep(script.check_delay_s)
    if script.voice == "unknown":
        raise script.reject("voice", "the engine knows only 'known'")


def record(line: str) -> None:
    """Write down what was asked, if anybody wants to know."""
    path = os.environ.get("SCRIPTED_RECORD")
    if path:
        with Path(path).open("a", encoding="utf-8") as file:
            file.write(line + "\n")
