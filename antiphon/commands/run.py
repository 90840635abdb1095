"""`antiphon run`: a stack for the agent that is being written, begun anew when its code changes."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import TYPE_CHECKING

import click

from antiphon.options import log_level_option, option

if TYPE_CHECKING:
    from types import FrameType

    from orchestrator.factory import AgentName


@click.command(short_help="Run your agent while you write it.")
@click.argument("agent", metavar="FILE.py[:FACTORY]")
@option("--no-reload", is_flag=True, help="Do not begin anew when the code changes.")
@log_level_option
@option(
    "--run-dir",
    metavar="DIR",
    envvar="ANTIPHON_RUN_DIR",
    help="Where the stack's sockets, pids and logs live.  [default: one for each agent, beside that of `antiphon up`]",
)
def run(agent: str, no_reload: bool, log_level: str, run_dir: str | None) -> None:
    """Start a stack of its own for one agent, in the foreground: one process of each service, under supervisord.

    Shows what the orchestrator logs, and warnings of the others. When a Python file in the agent's folder (or below)
    changes, the orchestrator is started anew, which ends its conversations; one that does not compile is shown, and
    what runs is kept. Ctrl-C stops all of it.

    FACTORY may be left out where it is called `agent`, or is the only function that returns a VoiceAgent. A module that
    can be imported may be named instead of a file, as in my_package.desk:agent.

    \b
    Exit codes: 0 stopped by SIGTERM or by `antiphon down`; 69 not complete in time, or supervisord died;
    78 wrong configuration; 130 stopped by Ctrl-C.
    """
    from antiphon import exit_codes
    from antiphon.development import Development
    from antiphon.development_view import DevelopmentView
    from antiphon.own_run_dir import alone_in, clear, own_run_dir
    from antiphon.rundir import resolve
    from antiphon.watching import Sources
    from orchestrator.factory import AgentName

    name = AgentName.parse(agent)
    found = name.find()
    sources = None if no_reload or found is None else Sources(_watched(name, found))
    chosen = resolve(run_dir) if run_dir else own_run_dir(name.module, name.file or Path.cwd() / name.module)
    chosen.create()
    signals = _Signals()
    with alone_in(chosen):
        clear(chosen, ours=not run_dir)
        with DevelopmentView(agent, chosen, sources) as view:
            environment = {"ANTIPHON_ORCHESTRATOR_AGENT": str(name), "ANTIPHON_LOG_LEVEL": log_level}
            Development(chosen, sources, view, signals.asked_to_end).run(environment)
    if signals.first == signal.SIGINT:
        click.get_current_context().exit(exit_codes.INTERRUPTED)


def _watched(name: AgentName, found: Path) -> Path:
    """The folder of the agent's file, or that the module's package is in: but not that of all installed packages."""
    folder = found.parent
    return found if name.file is None and folder.name in ("site-packages", "dist-packages") else folder


class _Signals:
    """Ctrl-C, SIGTERM, and a terminal that is closed. They are only noted, so that none disturbs the stopping."""

    def __init__(self) -> None:
        self.first: int | None = None
        signal.signal(signal.SIGINT, self._note)
        signal.signal(signal.SIGTERM, self._note)
        if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # as nohup has it
            signal.signal(signal.SIGHUP, self._note)

    def asked_to_end(self) -> bool:
        """One has come."""
        return self.first is not None

    def _note(self, number: int, _frame: FrameType | None) -> None:
        self.first = self.first or number
