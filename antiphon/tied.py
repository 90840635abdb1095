"""A process that ends with the one that started it, however that one ends: the kernel tells it, also after SIGKILL."""

from __future__ import annotations

import ctypes
import os
import signal

PR_SET_PDEATHSIG = 1  # linux/prctl.h


def tie(parent: int) -> bool:
    """Have the kernel send SIGTERM to this process when its parent is gone; false if it is already.

    Raises `SystemExit` where the system can't do that.
    """
    if ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM):
        raise SystemExit("this system can't tie a process to its parent (prctl)")
    return os.getppid() == parent
