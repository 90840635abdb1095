"""`antiphon orchestrator`: the process that holds the conversations."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import click

from antiphon.options import log_level_option, option, run_dir_option

if TYPE_CHECKING:
    from antiphon.rundir import RunDir


@click.command(short_help="Run an orchestrator, which holds the conversations.")
@option(
    "--agent",
    metavar="FILE.py[:FACTORY]|MODULE:FACTORY",
    help="What makes the agent of each conversation.  [default: built-in]",
)
@option("--name", metavar="NAME", default="orchestrator-01", help="Unique name of this process.")
@option("--ingest", metavar="ADDRESS", help="Where clients connect.  [default: ipc, in the run directory]")
@option("--nodes", metavar="ADDRESS", help="Where nodes connect.  [default: ipc, in the run directory]")
@option("--control", metavar="ADDRESS", help="Where operators ask.  [default: ipc, in the run directory]")
@option("--insecure", is_flag=True, help="Allow unencrypted sockets on addresses other than loopback and ipc.")
@option("--drain-s", type=click.FloatRange(0), default=30.0, help="How long SIGTERM waits for conversations.")
@option("--max-sessions", type=click.IntRange(1), default=1000, help="Conversations at once; more are refused.")
@log_level_option
@run_dir_option
def orchestrator(
    agent: str | None,
    name: str,
    ingest: str | None,
    nodes: str | None,
    control: str | None,
    insecure: bool,
    drain_s: float,
    max_sessions: int,
    log_level: str,
    run_dir: RunDir,
) -> None:
    """Run an orchestrator: the hub that clients and nodes connect to, and that holds the conversations.

    Addresses are ipc:///PATH or tcp://HOST:PORT. SIGTERM drains it: it takes no new conversations, finishes those that
    run, and leaves.

    \b
    Exit codes: 0 drained; 75 failed, start me again; 78 wrong configuration.
    """
    from antiphon import log_format
    from orchestrator.process import OrchestratorSettings, run

    log_format.configure(log_level)
    if not (ingest and nodes and control):
        run_dir.create()
    settings = OrchestratorSettings(
        name=name,
        ingest=ingest or run_dir.endpoint(name, "ingest"),
        nodes=nodes or run_dir.endpoint(name, "nodes"),
        control=control or run_dir.endpoint(name, "control"),
        agent=agent,
        insecure=insecure,
        drain_s=drain_s,
        max_sessions=max_sessions,
    )
    sys.exit(run(settings))
