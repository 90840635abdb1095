#!/usr/bin/env python3
"""What the whole stack burns while nobody talks: CPU of every process, in percent of one core.

    python benchmarks/idle.py [--seconds 30] [--json]

Starts a stack of its own in a temporary run directory, waits until it is ready and has settled, measures user + system
time of supervisord, the orchestrator, the nodes and the processes that these started, and stops it.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from antiphon.processes import PROC, command_line, started_under
from antiphon.rundir import RunDir
from antiphon.supervisord import Supervisord

SETTLE_S = 3.0
TICKS = os.sysconf("SC_CLK_TCK")


def antiphon(*arguments: str) -> None:
    """Run a command of the CLI, in this interpreter's environment."""
    subprocess.run([sys.executable, "-P", "-m", "antiphon", *arguments], check=True, stdout=subprocess.DEVNULL)


def cpu_s(pid: int) -> float:
    """User + system time of a process so far."""
    fields = (PROC / str(pid) / "stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


def measure(run_dir: RunDir, seconds: float) -> dict[str, float]:
    """Percent of a core by process."""
    supervisord = Supervisord(run_dir.supervisor_socket)
    pid = supervisord.pid()
    assert pid is not None
    names = {process.pid: process.name for process in supervisord.processes()} | {pid: "supervisord"}
    pids = sorted({pid, *started_under(supervisord.url)})
    time.sleep(SETTLE_S)
    before = {one: cpu_s(one) for one in pids}
    time.sleep(seconds)
    return {
        names.get(one, f"{command_line(one).split()[-2].rpartition('.')[2]} {one}"): round(
            (cpu_s(one) - before[one]) / seconds * 100, 2
        )
        for one in pids
    }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=30.0)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="idle") as folder:
        antiphon("up", "--run-dir", folder)
        try:
            percent = measure(RunDir(Path(folder)), arguments.seconds)
        finally:
            antiphon("down", "--run-dir", folder)
    total = round(sum(percent.values()), 2)
    if arguments.json:
        print(json.dumps({"seconds": arguments.seconds, "percent_of_a_core": percent, "total": total}, indent=2))
        return
    for name, value in sorted(percent.items(), key=lambda item: -item[1]):
        print(f"{value:6.2f} %  {name}")
    print(f"{total:6.2f} %  in all")


if __name__ == "__main__":
    main()
