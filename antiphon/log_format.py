"""How the processes write their logs: to standard error, which supervisord keeps in one file for each process."""

from __future__ import annotations

import logging

# The time first, as supervisord writes it too: `antiphon logs` sorts the lines of several processes by it.
FORMAT = "%(asctime)s %(levelname)-7s %(name)s: %(message)s"


def configure(level: str) -> None:
    """Set up logging for this process; `level` is a name such as "info"."""
    logging.basicConfig(level=level.upper(), format=FORMAT, force=True)
