"""The run directory of one agent's development: where it is, and that nobody else is in it."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from antiphon import processes
from antiphon.rundir import RunDir, default_path, hold
from antiphon.stack import observe
from antiphon.stopping import stop
from antiphon.supervisord import Supervisord
from protocol.errors import Unavailable

NAME_LENGTH = 24  # of the agent's name in the path: the path of a socket is limited


def own_run_dir(module: str, where: Path) -> RunDir:
    """Beside the user's default one; another for each agent, and always the same for the same one."""
    readable = re.sub(r"[^A-Za-z0-9_.-]", "_", module)[:NAME_LENGTH]
    digest = hashlib.sha256(os.fsencode(where)).hexdigest()[:8]
    return RunDir(default_path().with_name("antiphon-run") / f"{readable}-{digest}")


@contextmanager
def alone_in(run_dir: RunDir) -> Iterator[None]:
    """Hold this run directory for as long as the development goes on. Raises `Unavailable` when another one does."""
    busy = (
        f"`antiphon run` is at work here already (process {{pid}}, run directory {run_dir.path}); "
        "stop that one first, or choose another directory with --run-dir"
    )
    with hold(run_dir.path / "run.lock", busy):
        yield


def clear(run_dir: RunDir, *, ours: bool) -> None:
    """Make sure that nothing runs here. What an `antiphon run` that was killed left behind is stopped, if it is `ours`.

    Raises `Unavailable` for somebody else's stack.
    """
    if observe(run_dir).empty and not processes.started_under(Supervisord(run_dir.supervisor_socket).url):
        return
    if not ours:
        raise Unavailable(
            f"a stack runs in {run_dir.path} already; stop it with: antiphon down --run-dir {run_dir.path}, "
            "or choose another directory with --run-dir"
        )
    stop(run_dir, 1.0, lambda _: None)
