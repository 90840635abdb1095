"""Operating-system processes, by their pids: whether they live, and which of them belong to a stack. Reads /proc."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterable
from pathlib import Path

PROC = Path("/proc")


def alive(pid: int) -> bool:
    """True while the process runs. One that is dead and only waits for its parent to notice does not."""
    try:
        stat = (PROC / str(pid) / "stat").read_text()
    except OSError:
        return False
    return stat.rpartition(")")[2].split()[0] not in "ZX"


def command_line(pid: int) -> str:
    """The command that started the process, or "" when it is gone."""
    try:
        return (PROC / str(pid) / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
    except OSError:
        return ""


def started_under(server_url: str) -> list[int]:
    """Pids of the live processes that the supervisord at this address started, and of those that they started.

    supervisord writes its address into the environment of what it starts, so that they are found when it was killed
    and can no longer be asked.
    """
    mark = f"SUPERVISOR_SERVER_URL={server_url}".encode()
    found = []
    for entry in PROC.iterdir():
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        try:
            environment = (entry / "environ").read_bytes().split(b"\0")
        except OSError:  # another user's, or gone meanwhile
            continue
        if mark in environment and alive(int(entry.name)):
            found.append(int(entry.name))
    return sorted(found)


def started_with(argument: str) -> int | None:
    """Pid of the live process whose command line has exactly this argument: a supervisord, by its configuration."""
    for entry in PROC.iterdir():
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        try:
            arguments = (entry / "cmdline").read_bytes().split(b"\0")
        except OSError:  # gone meanwhile
            continue
        if os.fsencode(argument) in arguments and alive(int(entry.name)):
            return int(entry.name)
    return None


def send(pids: Iterable[int], number: signal.Signals) -> None:
    """Send the signal to each process that is still there."""
    for pid in pids:
        try:
            os.kill(pid, number)
        except ProcessLookupError:
            continue
