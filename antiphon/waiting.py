"""Waiting for something that another process does: by asking again and again, and never without a deadline."""

from __future__ import annotations

import time
from collections.abc import Callable

LOOK_AGAIN_S = 0.05


def wait_until(condition: Callable[[], bool], timeout_s: float, *, every_s: float = LOOK_AGAIN_S) -> bool:
    """Ask until `condition()` is true; false when it was not within `timeout_s` seconds. Asks at least once."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() >= deadline:
            return False
        time.sleep(every_s)
    return True
