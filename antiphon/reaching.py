"""Where a command finds the orchestrators that it talks to."""

from __future__ import annotations

from antiphon.rundir import RunDir
from antiphon.stack import stale
from protocol.errors import Unavailable


def ingest_of(run_dir: RunDir, connect: tuple[str, ...]) -> list[str]:
    """The ingest addresses that were named, or those of the run directory's orchestrators.

    Raises `Unavailable` when the run directory has none that lives.
    """
    found = list(connect) or [address for address in run_dir.endpoints("ingest").values() if not stale(address)]
    if not found:
        raise Unavailable(f"no orchestrator runs in {run_dir.path}; start the stack with: antiphon up")
    return found
