"""A stack for one agent that is being written: starts it, begins its orchestrator anew when the code changes, ends it.

Prints nothing, its `Watcher` does. Nothing that it starts outlives it.
"""

from __future__ import annotations

import os
import re
import subprocess
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Protocol

from antiphon import conf, tied_supervisord
from antiphon.log_files import Entry
from antiphon.log_view import LogView
from antiphon.rundir import RunDir
from antiphon.stack import ORCHESTRATOR, Missing, Stack, observe, service_of
from antiphon.starting import StackIncomplete
from antiphon.stopping import stop, stop_all
from antiphon.supervisord import Supervisord, SupervisordGone
from antiphon.waiting import wait_until
from antiphon.watching import Sources
from protocol.errors import Unavailable

TICK_S = 0.1
READY_TIMEOUT_S = 30.0
LEAVE_S = 3.0  # for a process that ends its conversations at once; one that hangs is killed then
GONE_S = 5.0  # until supervisord's end is noticed, when it no longer answers
LOCK_TIMEOUT_S = 60.0  # another command that is just changing the stack may take as long

# Conversations are ended at once, for each change of the code. What is printed is seen at once. No bytecode is kept: it
# is told from newer code by the second and the size alone, and a developer saves twice within one.
ENVIRONMENT = {"ANTIPHON_ORCHESTRATOR_DRAIN_S": "0", "PYTHONUNBUFFERED": "1", "PYTHONDONTWRITEBYTECODE": "1"}


class Watcher(Protocol):
    """Who wants to know how it goes."""

    def logged(self, entries: list[Entry]) -> None:
        """The processes have written this."""

    def waiting(self, missing: list[Missing]) -> None:
        """These are not ready yet. Told again and again."""

    def ready(self, stack: Stack, took_s: float, *, again: bool) -> None:
        """Everything serves; `again` after a change of the code."""

    def late(self, missing: list[Missing]) -> None:
        """After a change, this is still missing after `READY_TIMEOUT_S`. Waiting goes on."""

    def changing(self, changed: set[Path], conversations: int) -> None:
        """The code has changed: these conversations are ended, and the orchestrator is started anew."""

    def kept(self, problems: list[str]) -> None:
        """The code has changed and can't be compiled: what runs is kept."""

    def failed(self, missing: list[Missing]) -> None:
        """The orchestrator can't use the agent. Its log says why; the next change may mend it."""

    def ended(self, conversations: int) -> None:
        """All of it has been stopped, and these conversations were ended with it."""


class Development:
    """`sources` None: changes are not looked for. `asked_to_end` is asked several times a second."""

    def __init__(
        self, run_dir: RunDir, sources: Sources | None, watcher: Watcher, asked_to_end: Callable[[], bool]
    ) -> None:
        self._run_dir = run_dir
        self._sources = sources
        self._watcher = watcher
        self._asked_to_end = asked_to_end
        self._supervisord = Supervisord(run_dir.supervisor_socket)
        self._log = LogView(run_dir)
        self._began: float | None = None  # since when something has been missing
        self._was_ready = False
        self._told_late = False

    def run(self, environment: dict[str, str]) -> None:
        """Returns when it was asked to end, or `antiphon down` has stopped the stack. Nothing runs any more then.

        Raises `StackIncomplete` when the stack doesn't get ready for a reason that no change of the code can mend, and
        `Unavailable` when supervisord dies.
        """
        child: subprocess.Popen[bytes] | None = None
        with closing(self._log):
            try:
                self._wait_for_ready()
                with self._run_dir.lock():
                    child = tied_supervisord.start(
                        self._run_dir, _template(), {**os.environ, **ENVIRONMENT, **environment}, self._asked_to_end
                    )
                self._follow(child)
            finally:
                self._end(child)
        if child.returncode and not self._asked_to_end():
            raise Unavailable(
                f"supervisord has died (exit code {child.returncode}); see {self._run_dir.supervisord_log}"
            )

    def _follow(self, child: subprocess.Popen[bytes]) -> None:
        while child.poll() is None and not self._asked_to_end():
            try:
                self._watcher.logged(self._log.new_entries())
                if self._began is not None:
                    self._look(self._began)
                if self._sources is not None:
                    self._take_changes(self._sources)
            except SupervisordGone:
                if not wait_until(lambda: child.poll() is not None, GONE_S):
                    raise
            time.sleep(TICK_S)

    def _look(self, began: float) -> None:
        stack = observe(self._run_dir, timeout_s=0.5)
        missing = stack.missing()
        took_s = time.monotonic() - began
        if stack.supervisord is None:
            raise SupervisordGone(f"supervisord has left; see {self._run_dir.supervisord_log}")
        if not missing:
            self._watcher.logged(self._log.new_entries())
            self._watcher.ready(stack, took_s, again=self._was_ready)
            self._began, self._was_ready, self._log.settled = None, True, True
        elif hopeless := [one for one in missing if one.hopeless]:
            if self._sources is None or any(service_of(one.name) != ORCHESTRATOR for one in hopeless):
                raise StackIncomplete(self._run_dir, missing, READY_TIMEOUT_S)
            self._watcher.logged(self._log.new_entries())
            self._watcher.failed(hopeless)
            self._began = None
        elif took_s > READY_TIMEOUT_S and not self._told_late:
            if not self._was_ready:
                raise StackIncomplete(self._run_dir, missing, READY_TIMEOUT_S)
            self._watcher.late(missing)
            self._told_late = True
        else:
            self._watcher.waiting(missing)

    def _take_changes(self, sources: Sources) -> None:
        changed = sources.changed()
        if not changed:
            return
        problems = sources.problems(changed)
        if problems:
            self._watcher.kept(problems)
            return
        self._watcher.changing(changed, self._conversations())
        self._wait_for_ready()
        orchestrators = [one for one in self._supervisord.processes() if service_of(one.name) == ORCHESTRATOR]
        stop_all(self._supervisord, [one for one in orchestrators if not one.ended], LEAVE_S)
        for one in orchestrators:
            self._supervisord.start(one.id)

    def _wait_for_ready(self) -> None:
        self._began = time.monotonic()
        self._told_late = False

    def _conversations(self) -> int:
        return sum(len(snapshot.sessions) for snapshot in observe(self._run_dir, timeout_s=0.5).snapshots.values())

    def _end(self, child: subprocess.Popen[bytes] | None) -> None:
        """Leave nothing, whatever has happened. Also after another command that is stopping the stack just now."""
        conversations = self._conversations()
        deadline = time.monotonic() + LOCK_TIMEOUT_S
        while True:
            try:
                with self._run_dir.lock():
                    stop(self._run_dir, LEAVE_S, lambda _: None)
                break
            except Unavailable:
                if time.monotonic() > deadline:
                    raise
                time.sleep(TICK_S)
        if child is not None:
            child.wait()
        self._watcher.logged(self._log.new_entries())
        self._watcher.ended(conversations)


def _template() -> str:
    """The shipped programs, one process of each: one person talks to it."""
    return re.sub(r"^numprocs\s*=.*$", "numprocs=1", conf.shipped(), flags=re.MULTILINE)
