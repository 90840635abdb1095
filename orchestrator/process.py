"""An orchestrator as an operating-system process: from its settings to its exit code.

Exit codes: 0 drained; 78 wrong configuration, restarting will not help; 75 failed, restart me.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import time
from dataclasses import dataclass

import uvloop

from orchestrator.factory import load_factory
from orchestrator.hub import Addresses, Hub
from protocol.errors import ConfigurationError
from protocol.limits import MAX_ID_LENGTH

log = logging.getLogger(__name__)

EXIT_DRAINED = 0
EXIT_RESTART = 75  # EX_TEMPFAIL
EXIT_CONFIGURATION = 78  # EX_CONFIG
BACKOFF_S = 1.0  # before exiting after a failure: supervisord restarts at once


@dataclass(frozen=True)
class OrchestratorSettings:
    """What an orchestrator process is told. `agent` None: the built-in one."""

    name: str
    ingest: str
    nodes: str
    control: str
    agent: str | None = None
    insecure: bool = False
    drain_s: float = 30.0
    max_sessions: int = 1_000


def run(settings: OrchestratorSettings) -> int:
    """Run until drained (SIGTERM or SIGINT; a second one ends all sessions at once); returns the exit code."""
    os.umask(0o077)  # an ipc socket's mode follows the umask
    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(_serve(settings))
    except ConfigurationError as error:
        log.error("%s", error)
        return EXIT_CONFIGURATION
    except asyncio.CancelledError:
        return EXIT_DRAINED
    except Exception:
        log.exception("%s failed", settings.name)
        time.sleep(BACKOFF_S)
        return EXIT_RESTART
    return EXIT_DRAINED


async def _serve(settings: OrchestratorSettings) -> None:
    if not 1 <= len(settings.name) <= MAX_ID_LENGTH:
        raise ConfigurationError(
            f"--name {settings.name!r} has {len(settings.name)} characters; allowed are 1 to {MAX_ID_LENGTH}"
        )
    hub = Hub(
        Addresses(settings.ingest, settings.nodes, settings.control),
        factory=load_factory(settings.agent),
        name=settings.name,
        agent_name=settings.agent or "",
        max_sessions=settings.max_sessions,
        insecure=settings.insecure,
    )
    serving = asyncio.current_task()
    asked: list[int] = []

    def leave(number: int) -> None:
        asked.append(number)
        if len(asked) == 1:
            hub.stop()
        elif serving is not None:
            serving.cancel()

    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, leave, number)
    await hub.run(settings.drain_s)
    log.info("%s has drained", settings.name)
