"""The log files of a run directory: which there are, their last entries, and what is appended to them.

An entry is a line that begins with a time, and the lines after it that do not (a traceback, say).
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

from antiphon.rundir import RunDir
from antiphon.stack import service_of
from protocol.errors import ConfigurationError

FOLLOW_EVERY_S = 0.2
TAIL_BYTES = 256 * 1024  # of each file that are looked at for its last entries
COLORS = ("cyan", "green", "yellow", "magenta", "blue", "bright_cyan", "bright_green", "bright_yellow")
_TIME = re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d[,.]\d+")


@dataclass
class Entry:
    """Some lines of one process. `time` sorts; an entry whose file has no times sorts first."""

    name: str
    time: str
    lines: list[str] = field(default_factory=list)

    @property
    def color(self) -> str:
        """The same for all processes of a service."""
        return COLORS[sum(service_of(self.name).encode()) % len(COLORS)]


def select(run_dir: RunDir, names: Iterable[str]) -> dict[str, Path]:
    """The log files of the named services and processes (all, if none is named) by process.

    Raises `ConfigurationError` for a name that no log has.
    """
    files = {path.stem: path for path in sorted(run_dir.logs.glob("*.log"))}
    if run_dir.supervisord_log.exists():
        files["supervisord"] = run_dir.supervisord_log
    if not files:
        raise ConfigurationError(f"there are no logs in {run_dir.logs}; start the stack with: antiphon up")
    wanted = set(names)
    unknown = wanted - files.keys() - {service_of(name) for name in files}
    if unknown:
        raise ConfigurationError(
            f"there is no log of {', '.join(sorted(unknown))} in {run_dir.logs}; there are {', '.join(files)}"
        )
    return {name: path for name, path in files.items() if not wanted or {name, service_of(name)} & wanted}


def last_entries(files: dict[str, Path], count: int) -> list[Entry]:
    """The last `count` entries of each file, all sorted by time."""
    found: list[Entry] = []
    for name, path in files.items():
        with open(path, "rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - TAIL_BYTES))
            entries = split(name, file.read().decode(errors="replace"))
        found += entries[-count:] if count else []
    return sorted(found, key=lambda entry: entry.time)


def split(name: str, text: str) -> list[Entry]:
    """Cut text into entries."""
    entries: list[Entry] = []
    for line in text.splitlines():
        match = _TIME.match(line)
        if match is not None or not entries:
            entries.append(Entry(name, match[0].replace(".", ",") if match else ""))
        entries[-1].lines.append(line)
    return entries


class Followed:
    """What is appended to the logs from now on; also of processes that are started later, and after a rotation."""

    def __init__(self, run_dir: RunDir, names: Iterable[str], files: dict[str, Path]) -> None:
        self._run_dir = run_dir
        self._names = tuple(names)
        self._files: dict[str, BinaryIO] = {}
        self._partial: dict[str, bytes] = {}
        for name, path in files.items():
            self._files[name] = open(path, "rb")  # noqa: SIM115  # kept open while it is followed
            self._files[name].seek(0, os.SEEK_END)

    def new_entries(self) -> list[Entry]:
        """What was written since the last call."""
        entries: list[Entry] = []
        for name, path in select(self._run_dir, self._names).items():
            if name not in self._files:
                self._files[name] = open(path, "rb")  # noqa: SIM115  # kept open while it is followed
            entries += self._read(name)
            if self._rotated(name, path):
                self._files[name].close()
                self._files[name] = open(path, "rb")  # noqa: SIM115  # kept open while it is followed
                entries += self._read(name)
        return sorted(entries, key=lambda entry: entry.time)

    def pause(self) -> None:
        """Wait a moment for more."""
        time.sleep(FOLLOW_EVERY_S)

    def close(self) -> None:
        """Close the files."""
        for file in self._files.values():
            file.close()

    def _read(self, name: str) -> list[Entry]:
        data = self._partial.pop(name, b"") + self._files[name].read()
        whole, newline, rest = data.rpartition(b"\n")
        if rest:
            self._partial[name] = rest
        return split(name, whole.decode(errors="replace")) if newline else []

    def _rotated(self, name: str, path: Path) -> bool:
        try:
            return path.stat().st_ino != os.fstat(self._files[name].fileno()).st_ino
        except FileNotFoundError:  # between the two renames of a rotation
            return False
