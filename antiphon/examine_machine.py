"""Is this machine fit for a stack: its Python, its size, its limits, the run directory. Looks only, changes nothing."""

from __future__ import annotations

import importlib.util
import os
import re
import resource
import shutil
import sys
from pathlib import Path

from antiphon import conf, devices
from antiphon.console import short
from antiphon.findings import Finding, ok, problem, warning
from antiphon.rundir import RunDir
from protocol.errors import ConfigurationError

OLDEST_PYTHON = (3, 11)
STACK_MB = 700  # the shipped stack's memory (measured: 650 MB, of which 410 are the decoders of the two stt nodes)
DISK_MB = 500  # logs are rotated: ten processes, 40 MB each, and a margin
CHOOSE_ANOTHER = "choose another one with --run-dir or ANTIPHON_RUN_DIR"


def examine(run_dir: RunDir) -> list[Finding]:
    """All of it."""
    return [_python(), _size(), _descriptors(), _supervisor(), *_run_dir(run_dir), _devices()]


def _python() -> Finding:
    version = ".".join(map(str, sys.version_info[:3]))
    if sys.version_info < OLDEST_PYTHON:
        return problem("python", f"{version} is too old", "install Python 3.11 or newer (apt install python3)")
    return ok("python", f"{version}, {sys.executable}")


def _size() -> Finding:
    cores = len(os.sched_getaffinity(0))
    match = re.search(r"^MemAvailable:\s+(\d+) kB", Path("/proc/meminfo").read_text(), re.MULTILINE)
    free_mb = int(match[1]) // 1024 if match else 0
    what = f"{cores} core{'' if cores == 1 else 's'}, {free_mb} MB of memory available"
    if free_mb < STACK_MB:
        do = f"the shipped stack takes {STACK_MB} MB; stop something, or run fewer nodes (antiphon scale stt=1)"
        return warning("machine", what, do)
    return ok("machine", what)


def _descriptors() -> Finding:
    match = re.search(r"^minfds\s*=\s*(\d+)", conf.shipped(), re.MULTILINE)
    wanted = int(match[1]) if match else 0
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    if hard != resource.RLIM_INFINITY and hard < wanted:
        return warning(
            "descriptors",
            f"a process may open {hard} files; {wanted} are wanted for 10,000 connections",
            f"raise the hard limit (ulimit -Hn {wanted}, LimitNOFILE={wanted}); until then fewer clients can connect",
        )
    return ok("descriptors", f"a process may open {'any number of' if hard == resource.RLIM_INFINITY else hard} files")


def _supervisor() -> Finding:
    if importlib.util.find_spec("supervisor") is None:
        return problem("supervisord", "the Python package supervisor is missing", "pip install supervisor")
    return ok("supervisord", "is installed")


def _run_dir(run_dir: RunDir) -> list[Finding]:
    path, about = run_dir.path, "run directory"
    try:
        run_dir.check()
    except ConfigurationError as error:
        return [problem(about, str(error), CHOOSE_ANOTHER)]
    place = path
    while not place.exists() and place != place.parent:
        place = place.parent
    if not place.is_dir():
        return [problem(about, f"{short(place)} is no directory", CHOOSE_ANOTHER)]
    if not os.access(place, os.W_OK | os.X_OK):
        return [problem(about, f"{short(place)} cannot be written to by this user", CHOOSE_ANOTHER)]
    found = [ok(about, short(path) if place == path else f"{short(path)} (made by antiphon up)")]
    if run_dir.sockets.exists() and run_dir.sockets.stat().st_mode & 0o077:
        do = f"chmod 700 {run_dir.sockets}"
        found.append(problem("sockets", "other users of this machine may open the sockets' folder", do))
    free_mb = shutil.disk_usage(place).free // 1_000_000
    if free_mb < DISK_MB:
        found.append(warning("disk", f"{free_mb} MB are free; logs may take {DISK_MB} MB", "make room"))
    else:
        found.append(ok("disk", f"{free_mb} MB are free"))
    return found


def _devices() -> Finding:
    try:
        devices.check(devices.load())
    except ConfigurationError as error:
        what, _, do = str(error).partition(": ")
        return warning("talk", f"antiphon talk does not work here: {what}", do or "everything else works without")
    return ok("talk", "a microphone and a loudspeaker are there")
