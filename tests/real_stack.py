"""A whole stack for tests: the shipped processes under a supervisord of their own, in a run directory of its own.

Everything is done through the command line, as a user does it. The directory's name is short, for a socket's path is
limited.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

from antiphon import processes
from antiphon.rundir import RunDir
from antiphon.supervisord import Supervisord

COMMAND = (sys.executable, "-P", "-m", "antiphon")
EXAMPLES = Path(__file__).parent.parent / "examples" / "audio"


@dataclass
class RealStack:
    """A run directory, and the commands that are given about it."""

    run_dir: RunDir

    def run(
        self, *arguments: str | Path, timeout_s: float = 50.0, **environment: str
    ) -> subprocess.CompletedProcess[str]:
        """Run `antiphon` with these arguments to its end, whatever its exit code."""
        return subprocess.run(
            [*COMMAND, *map(str, arguments)],
            env=self.environment(**environment),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=timeout_s,
            check=False,
        )

    def do(self, *arguments: str | Path, timeout_s: float = 50.0, **environment: str) -> str:
        """Run `antiphon`, which must succeed; returns what it printed."""
        done = self.run(*arguments, timeout_s=timeout_s, **environment)
        assert done.returncode == 0, f"antiphon {' '.join(map(str, arguments))}: {done.stdout}{done.stderr}"
        return done.stdout

    def start(self, *arguments: str | Path, **environment: str) -> subprocess.Popen[str]:
        """Start `antiphon` and return; the caller ends it."""
        return subprocess.Popen(
            [*COMMAND, *map(str, arguments)],
            env=self.environment(**environment),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def environment(self, **more: str) -> dict[str, str]:
        """The environment of commands: this run directory, and no other setting of whoever runs the tests."""
        kept = {name: value for name, value in os.environ.items() if not name.startswith("ANTIPHON_")}
        return {**kept, "ANTIPHON_RUN_DIR": str(self.run_dir.path), **more}

    def status(self) -> dict[str, Any]:
        """`antiphon status --json`."""
        document: dict[str, Any] = json.loads(self.run("status", "--json").stdout)
        return document

    def pids(self) -> dict[str, int]:
        """The pid of each process that runs, by name."""
        return {one["name"]: one["pid"] for one in self.status()["processes"] if one["pid"]}

    def processes(self) -> list[int]:
        """Every live process of this stack, however it was started."""
        supervisor = processes.started_with(str(self.run_dir.conf))
        started = processes.started_under(Supervisord(self.run_dir.supervisor_socket).url)
        return started if supervisor is None else [supervisor, *started]

    def logs(self) -> str:
        """The end of every log, for the message of a test that fails."""
        return self.run("logs", "-n", "5").stdout


@contextmanager
def run_directory() -> Iterator[RealStack]:
    """A run directory in which nothing runs yet; what runs in the end is stopped, and the directory removed."""
    stack = RealStack(RunDir(Path(tempfile.mkdtemp(prefix="ap-", dir="/tmp")).resolve()))
    # A cancelled test run is told so by SIGTERM; as an exception it passes through the fixtures that stop processes.
    before = signal.signal(signal.SIGTERM, _interrupt)
    try:
        yield stack
    finally:
        try:
            stack.do("down", "--now")
            assert stack.processes() == []
        finally:
            processes.send(stack.processes(), signal.SIGKILL)
            signal.signal(signal.SIGTERM, before)
            shutil.rmtree(stack.run_dir.path, ignore_errors=True)


@contextmanager
def real_stack(*options: str, **environment: str) -> Iterator[RealStack]:
    """A stack that is up; `options` and `environment` are those of `antiphon up`."""
    with run_directory() as stack:
        stack.do("up", *options, **environment)
        yield stack


def _interrupt(_number: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt
