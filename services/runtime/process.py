"""A node as an operating-system process: from its settings to its exit code.

Exit codes: 0 drained; 78 wrong configuration, restarting will not help; 75 failed, restart me. A process that failed
at boot waits before it exits, longer each time, for supervisord restarts it at once.
"""

from __future__ import annotations

import asyncio
import logging
import os
import re
import signal
import time
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import uvloop

from protocol.endpoint import check
from protocol.engine import Service
from protocol.errors import AntiphonError, ConfigurationError

log = logging.getLogger(__name__)

EXIT_DRAINED = 0
EXIT_RESTART = 75  # EX_TEMPFAIL
EXIT_CONFIGURATION = 78  # EX_CONFIG
MAX_BACKOFF_S = 30.0
NAME = r"[A-Za-z0-9_.-]{1,64}"  # it is part of a socket's identity, of a file's name, and of many log lines


@dataclass(frozen=True)
class NodeSettings:
    """What a node process is told. `slots` None: the engine's own default. `backoff_dir`: where boot failures count."""

    service: str
    engine: str
    slots: int | None
    connect: tuple[str, ...]
    name: str
    drain_s: float = 30.0
    backoff_dir: Path | None = None


def run(settings: NodeSettings) -> int:
    """Run the node until it has drained (SIGTERM or SIGINT); returns the process's exit code."""
    # Scaling is by processes: a math library that starts a thread per core would only fight the other nodes.
    for variable in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ.setdefault(variable, "1")
    backoff = _Backoff(settings)
    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(_serve(settings, backoff))
    except ConfigurationError as error:
        log.error("%s", error)
        return EXIT_CONFIGURATION
    except Exception as error:
        if isinstance(error, AntiphonError):
            log.error("%s", error)
        else:
            log.exception("%s/%s failed", settings.service, settings.engine)
        backoff.wait()
        return EXIT_RESTART
    return EXIT_DRAINED


async def _serve(settings: NodeSettings, backoff: _Backoff) -> None:
    # After the environment is set: these import numpy.
    from services.runtime.loading import load_engine, serving_of
    from services.runtime.node import Node

    for endpoint in settings.connect:
        check(endpoint)
    if settings.slots is not None and settings.slots < 1:
        raise ConfigurationError(f"--slots is {settings.slots}; a node needs at least 1")
    if not re.fullmatch(NAME, settings.name):
        raise ConfigurationError(
            f"--name is {settings.name!r}; a name is 1 to 64 letters, digits, dots, dashes and underscores"
        )
    engine = load_engine(settings.service, settings.engine)
    node = Node(
        service=cast(Service, settings.service),
        engine=engine,
        serving=serving_of(settings.service, engine),
        name=settings.name,
        slots=settings.slots or engine.default_slots,
        connect=settings.connect,
    )
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, node.drain)
    await node.run(settings.drain_s, on_ready=backoff.clear)


class _Backoff:
    """Counts boots that failed, in a file, so that the wait grows over restarts: 1, 2, 4, … `MAX_BACKOFF_S` seconds."""

    def __init__(self, settings: NodeSettings) -> None:
        folder = settings.backoff_dir
        self._file = folder / f"{settings.name}.failed-boots" if folder is not None else None
        self._booted = False

    def clear(self) -> None:
        """The boot succeeded."""
        self._booted = True
        if self._file is not None:
            self._file.unlink(missing_ok=True)

    def wait(self) -> None:
        """The process is about to exit because it failed; blocks for as long as it should not be started again.

        SIGTERM and SIGINT end the process meanwhile.
        """
        if self._booted or self._file is None:
            return
        failures = 0
        try:
            failures = int(self._file.read_text()) if self._file.exists() else 0
        except (OSError, ValueError) as error:
            log.warning("%s does not say how many boots have failed (%s): counting from 1", self._file, error)
        try:
            self._file.parent.mkdir(parents=True, exist_ok=True)
            self._file.write_text(str(failures + 1))
        except OSError as error:
            log.warning("the boot that failed cannot be counted: %s", error)
        seconds = min(MAX_BACKOFF_S, 2.0 ** min(max(failures, 0), 10))
        for number in (signal.SIGTERM, signal.SIGINT):  # the event loop that handled them is gone
            signal.signal(number, signal.SIG_DFL)
        log.error("boot number %d failed; trying again in %g s", failures + 1, seconds)
        time.sleep(seconds)
