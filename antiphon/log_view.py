"""The logs, for a person who writes an agent: all that the orchestrator writes, and of others only trouble."""

from __future__ import annotations

import re

from antiphon.log_files import Entry, Followed, select
from antiphon.rundir import RunDir
from antiphon.stack import ORCHESTRATOR, service_of
from protocol.errors import ConfigurationError

# After the time: the level's name, as we write it and as supervisord does, and the logger's, which only we have.
_LEVEL = re.compile(r"\S+ \S+ ([A-Z]+) *([\w.]*)")
QUIET = frozenset({"DEBUG", "INFO", "DEBG", "BLAT", "TRAC"})
SUPERVISORD = "supervisord"
# What an orchestrator says of itself and its nodes. Of the agent and of conversations, all is shown.
OF_THE_STACK = frozenset({"orchestrator.hub", "orchestrator.nodes", "orchestrator.process"})


class LogView:
    """Follows the logs from now on. Until it is told that the stack is `settled`, supervisord itself is not shown: it
    warns of what is meant to be so.
    """

    def __init__(self, run_dir: RunDir) -> None:
        try:
            files = select(run_dir, ())
        except ConfigurationError:  # there are none yet
            files = {}
        self._followed = Followed(run_dir, (), files)
        self._shown: dict[str, bool] = {}  # of each process, whether its last entry was
        self.settled = False

    def new_entries(self) -> list[Entry]:
        """What was written since the last call and is worth showing, sorted by time."""
        try:
            entries = self._followed.new_entries()
        except ConfigurationError:  # there is no log yet
            return []
        return [kept for entry in entries if (kept := self._worth_showing(entry)) is not None]

    def close(self) -> None:
        """Close the files."""
        self._followed.close()

    def _worth_showing(self, entry: Entry) -> Entry | None:
        ours = service_of(entry.name) == ORCHESTRATOR
        if entry.time:
            match = _LEVEL.match(entry.lines[0])
            level, logger = match.groups() if match else ("", "")
            if level in QUIET:
                self._shown[entry.name] = ours and logger not in OF_THE_STACK
            else:
                self._shown[entry.name] = self.settled or entry.name != SUPERVISORD
        if self._shown.get(entry.name, True):
            return entry
        # A line without a time belongs to the one before, but for what the agent prints.
        printed = entry.lines[1 if entry.time else 0 :] if ours else []
        return Entry(entry.name, "", printed) if printed else None
