"""Stopping a stack: orchestrators first, so that conversations end while their nodes are there; then the nodes; then
supervisord. Afterwards no process and no stale file is left, whatever state the stack was in.
"""

from __future__ import annotations

import signal
from collections.abc import Callable
from pathlib import Path

from antiphon import conf, processes
from antiphon.rundir import RunDir
from antiphon.stack import ORCHESTRATOR, service_of, stale
from antiphon.supervisord import Process, Supervisord, SupervisordGone
from antiphon.waiting import wait_until
from protocol.endpoint import IPC
from protocol.errors import Unavailable

DRAIN_S = 55.0  # stopwaitsecs of the orchestrator in the shipped supervisord.conf: to drain, to leave tasks, a margin
LEAVE_S = 10.0  # for supervisord itself, when everything under it has ended
KILL_S = 5.0  # for a process that was killed to be gone


def stop(run_dir: RunDir, drain_s: float, tell: Callable[[str], None]) -> int:
    """Stop everything of this run directory; what has not drained after `drain_s` seconds is killed.

    Returns how many processes were stopped, supervisord not counted. Raises `Unavailable` when one cannot be stopped.
    """
    supervisord = Supervisord(run_dir.supervisor_socket)
    # One that is just starting, or whose files were removed, is known by its command line alone.
    pid = supervisord.pid() or _pid_in(run_dir.pidfile) or processes.started_with(str(run_dir.conf))
    stopped = 0
    try:
        stopped = _stop_in_order(supervisord, drain_s, tell)
        supervisord.shutdown()
    except SupervisordGone:
        if pid is not None:
            processes.send([pid], signal.SIGTERM)
    if pid is not None:
        _leave(pid, supervisord.url, drain_s)
    stopped += _stop_orphans(supervisord.url, drain_s, tell)
    tidy(run_dir)
    return stopped


def stop_all(supervisord: Supervisord, victims: list[Process], drain_s: float) -> None:
    """Stop these processes and wait until they have ended; kill those that have not after `drain_s` seconds."""
    ids = {process.id for process in victims}
    for process in victims:
        supervisord.stop(process.id)

    def left() -> list[Process]:
        return [process for process in supervisord.processes() if process.id in ids and not process.ended]

    if wait_until(lambda: not left(), drain_s):
        return
    for process in left():
        supervisord.kill(process.id)
    if not wait_until(lambda: not left(), KILL_S):
        raise Unavailable(
            "these processes cannot be stopped: " + ", ".join(f"{process.name} ({process.pid})" for process in left())
        )


def tidy(run_dir: RunDir) -> None:
    """Remove what dead processes left: pid file, sockets, counts of boots, and the files that `scale` wrote."""
    remove_stale_sockets(run_dir)
    for file in (run_dir.pidfile, run_dir.supervisor_socket, *run_dir.boots.glob("*"), *conf.added_files(run_dir)):
        file.unlink(missing_ok=True)


def remove_stale_sockets(run_dir: RunDir) -> None:
    """Remove the sockets and lock files that nobody holds any more."""
    for address in (a for kind in ("ingest", "nodes", "control") for a in run_dir.endpoints(kind).values()):
        if stale(address):
            path = address.removeprefix(IPC)
            Path(path).unlink(missing_ok=True)
            Path(f"{path}.lock").unlink(missing_ok=True)
    for lock in run_dir.sockets.glob("*.lock"):
        if not Path(str(lock).removesuffix(".lock")).exists() and stale(str(lock).removesuffix(".lock")):
            lock.unlink(missing_ok=True)


def _stop_in_order(supervisord: Supervisord, drain_s: float, tell: Callable[[str], None]) -> int:
    running = [process for process in supervisord.processes() if process.running]
    first = [process for process in running if service_of(process.name) == ORCHESTRATOR]
    rest = [process for process in running if process not in first]
    for group in (first, rest):
        if group:
            tell(f"stopping {', '.join(process.name for process in group)}")
            stop_all(supervisord, group, drain_s)
    return len(running)


def _leave(pid: int, url: str, drain_s: float) -> None:
    """Wait until supervisord is gone: its pid file and socket vanish before it does."""
    if wait_until(lambda: not processes.alive(pid), LEAVE_S if not processes.started_under(url) else drain_s + LEAVE_S):
        return
    processes.send([pid], signal.SIGKILL)
    if not wait_until(lambda: not processes.alive(pid), KILL_S):
        raise Unavailable(f"supervisord (process {pid}) cannot be stopped")


def _stop_orphans(url: str, drain_s: float, tell: Callable[[str], None]) -> int:
    """Stop what a supervisord that was killed left behind."""
    orphans = processes.started_under(url)
    if not orphans:
        return 0
    tell(f"stopping processes without a supervisord: {', '.join(map(str, orphans))}")
    processes.send(orphans, signal.SIGTERM)
    if not wait_until(lambda: not processes.started_under(url), drain_s):
        processes.send(processes.started_under(url), signal.SIGKILL)
        if not wait_until(lambda: not processes.started_under(url), KILL_S):
            raise Unavailable(f"these processes cannot be stopped: {processes.started_under(url)}")
    return len(orphans)


def _pid_in(pidfile: Path) -> int | None:
    """The supervisord that a pid file names, if it is alive and no other program that got its number since."""
    try:
        pid = int(pidfile.read_text())
    except (OSError, ValueError):
        return None
    return pid if processes.alive(pid) and "supervisord" in processes.command_line(pid) else None
