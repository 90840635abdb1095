"""Starting a stack: render the configuration, start supervisord, wait until every process serves."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable

from antiphon import conf, processes
from antiphon.rundir import RunDir
from antiphon.stack import Missing, Stack, observe
from antiphon.supervisord import Supervisord
from antiphon.waiting import wait_until
from protocol.errors import ConfigurationError, Unavailable

DAEMON_TIMEOUT_S = 15.0  # supervisord returns as soon as its socket listens
LOG_LINES = 8


def start_supervisord(run_dir: RunDir, template: str, agent: str | None = None) -> None:
    """Start supervisord as a daemon with this configuration; it starts the processes.

    Raises `Unavailable` when processes of a supervisord that was killed are still there, or when it does not start.
    """
    left = processes.started_under(Supervisord(run_dir.supervisor_socket).url)
    if left:
        raise Unavailable(
            f"processes of an earlier start in {run_dir.path} still run without their supervisord "
            f"({', '.join(map(str, left))}); stop them with: antiphon down --run-dir {run_dir.path}"
        )
    run_dir.conf.write_text(conf.render(template), encoding="utf-8")
    run_dir.conf.chmod(0o600)
    environment = dict(os.environ)
    if agent is not None:
        environment["ANTIPHON_ORCHESTRATOR_AGENT"] = agent  # what supervisord starts inherits it
    try:
        done = subprocess.run(  # noqa: S603  # this interpreter's own supervisord
            [sys.executable, "-P", "-m", "supervisor.supervisord", "-c", str(run_dir.conf)],
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=DAEMON_TIMEOUT_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise Unavailable(
            f"supervisord did not start within {DAEMON_TIMEOUT_S:g} s; see {run_dir.supervisord_log}"
        ) from None
    if done.returncode:
        said = (done.stderr or done.stdout).strip().splitlines()
        raise ConfigurationError(
            f"supervisord does not start: {said[0] if said else f'exit code {done.returncode}'} "
            f"(configuration: {run_dir.conf}, log: {run_dir.supervisord_log})"
        )


def start_ended(run_dir: RunDir) -> list[str]:
    """Start again what ended by itself: a wrong configuration that is mended now, say. Returns the names.

    What was stopped on purpose, by `scale`, is left alone.
    """
    supervisord = Supervisord(run_dir.supervisor_socket)
    ended = [process for process in supervisord.processes() if process.ended and process.state != "STOPPED"]
    for process in ended:
        supervisord.start(process.id)
    return [process.name for process in ended]


def wait_until_ready(run_dir: RunDir, timeout_s: float, on_look: Callable[[list[Missing]], None]) -> Stack:
    """Wait until nothing is missing; `on_look` is told what still is, each time.

    Raises `StackIncomplete` after `timeout_s` seconds, or as soon as something ended for which waiting is no help.
    """
    stack = Stack(run_dir)

    def settled() -> bool:
        nonlocal stack
        stack = observe(run_dir, timeout_s=0.5)
        missing = stack.missing()
        on_look(missing)
        return not missing or stack.supervisord is None or any(one.hopeless for one in missing)

    wait_until(settled, timeout_s, every_s=0.1)
    missing = stack.missing()
    if stack.supervisord is None:
        raise Unavailable(f"supervisord has left; see {run_dir.supervisord_log}")
    if missing:
        raise StackIncomplete(run_dir, missing, timeout_s)
    return stack


class StackIncomplete(Unavailable):
    """Not everything that should run does. The text names each and shows the end of its log."""

    code = "stack_incomplete"

    def __init__(self, run_dir: RunDir, missing: list[Missing], timeout_s: float) -> None:
        hopeless = [one for one in missing if one.hopeless]
        blamed = hopeless or missing
        when = "" if hopeless else f" after {timeout_s:g} s"
        super().__init__("\n".join([f"the stack is not complete{when}", *(_explain(one) for one in blamed)]))
        if any(one.process and one.process.state == "EXITED" for one in hopeless):
            self.category = "configuration"


def last_lines(log: bytes, lines: int = LOG_LINES) -> list[str]:
    """The end of a log, as text."""
    return log.decode(errors="replace").splitlines()[-lines:]


def _explain(missing: Missing) -> str:
    text = f"  {missing.name} {missing.why}" if missing.process else f"  {missing.why}"
    if missing.process is None or not missing.process.log.is_file():
        return text
    end = last_lines(missing.process.log.read_bytes()[-8192:])
    shown = "\n".join(f"      {line}" for line in end) if end else "      (it has written nothing)"
    return f"{text}\n    the end of {missing.process.log}:\n{shown}"
