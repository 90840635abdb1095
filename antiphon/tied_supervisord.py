"""A supervisord that ends with the process that started it, however that one ends, and takes its processes along.

`antiphon up` leaves a daemon behind on purpose; what is started here must leave nothing. The kernel sends SIGTERM to
this process when its parent is gone. Run as a module, it is that supervisord.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping

from antiphon import conf
from antiphon.rundir import RunDir
from antiphon.supervisord import Supervisord
from antiphon.tied import tie
from antiphon.waiting import wait_until
from protocol.errors import ConfigurationError, Unavailable

LISTEN_TIMEOUT_S = 15.0
UMASK = 0o077  # as the shipped configuration has it, which supervisord obeys only as a daemon


def start(
    run_dir: RunDir, template: str, environment: Mapping[str, str], given_up: Callable[[], bool]
) -> subprocess.Popen[bytes]:
    """Start it and wait until it listens, or until `given_up()`. The caller ends it and waits for it.

    Raises `ConfigurationError` with what it said when it leaves, and `Unavailable` when it takes too long.
    """
    run_dir.conf.write_text(conf.render(template), encoding="utf-8")
    run_dir.conf.chmod(0o600)
    with tempfile.TemporaryFile() as said:
        child = subprocess.Popen(  # noqa: S603  # this very module
            [sys.executable, "-P", "-m", __name__, str(os.getpid()), "--nodaemon", "--silent", "-c", str(run_dir.conf)],
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=said,
            start_new_session=True,  # Ctrl-C in the terminal is for us alone
        )
        supervisord = Supervisord(run_dir.supervisor_socket)

        def settled() -> bool:
            return given_up() or child.poll() is not None or supervisord.pid() is not None

        if not wait_until(settled, LISTEN_TIMEOUT_S):
            raise Unavailable(
                f"supervisord does not listen after {LISTEN_TIMEOUT_S:g} s; see {run_dir.supervisord_log}"
            )
        if child.poll() is not None and not given_up():
            said.seek(0)
            lines = said.read().decode(errors="replace").strip().splitlines()
            raise ConfigurationError(
                f"supervisord does not start: {lines[-1] if lines else f'exit code {child.returncode}'} "
                f"(configuration: {run_dir.conf}, log: {run_dir.supervisord_log})"
            )
    return child


def main(parent: int, arguments: list[str]) -> None:
    """Be supervisord for as long as the parent lives."""
    if not tie(parent):
        return
    os.umask(UMASK)
    from supervisor import supervisord

    supervisord.main(arguments)


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2:])
