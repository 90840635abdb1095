"""`antiphon up`: start the stack on this machine, and return when all of it serves."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from antiphon.options import option, run_dir_option

if TYPE_CHECKING:
    from antiphon.rundir import RunDir
    from antiphon.stack import Missing, Stack


@click.command(short_help="Start the stack on this machine.")
@option(
    "--agent",
    metavar="FILE.py[:FACTORY]|MODULE:FACTORY",
    help="What makes the agent of each conversation.  [default: built-in]",
)
@option("--timeout", metavar="SECONDS", type=click.FloatRange(1), default=30.0, help="How long to wait for all of it.")
@run_dir_option
def up(run_dir: RunDir, agent: str | None, timeout: float) -> None:
    """Start supervisord with the shipped supervisord.conf, and wait until every process of every service is ready.

    Says what is missing when that takes too long, with the end of its log. When the stack is up already, says so; what
    has ended by itself is started again, and nothing else is touched.

    \b
    Exit codes: 0 ready; 69 not complete in time; 78 wrong configuration.
    """
    from antiphon import conf
    from antiphon.console import err
    from antiphon.starting import start_ended, start_supervisord, wait_until_ready
    from antiphon.supervisord import Supervisord

    agent = _checked(agent)
    run_dir.create()
    with run_dir.lock(), err.status("starting …") as spinner:

        def show(missing: list[Missing]) -> None:
            spinner.update(f"waiting for {', '.join(one.name for one in missing)} …" if missing else "ready")

        already = Supervisord(run_dir.supervisor_socket).pid() is not None
        again = start_ended(run_dir) if already else []
        if not already:
            start_supervisord(run_dir, conf.shipped(), agent)
        stack = wait_until_ready(run_dir, timeout, show)
    _print(stack, already, again)
    if already and agent is not None:
        _check_agent(stack, agent)


def _checked(agent: str | None) -> str | None:
    """A file by its whole path: the stack may be asked for it again from another folder."""
    if agent is None:
        return None
    from orchestrator.factory import AgentName
    from protocol.errors import ConfigurationError

    try:
        name = AgentName.parse(agent)
        if name.file is not None:
            name.find()
        elif not name.factory:
            raise ConfigurationError(f"{agent!r} is not MODULE:FACTORY, as in my_agent:make")
    except ConfigurationError as error:
        raise click.BadParameter(str(error), param_hint="--agent") from None
    return str(name)


def _check_agent(stack: Stack, agent: str) -> None:
    from protocol.errors import ConfigurationError

    for name, snapshot in stack.snapshots.items():
        if snapshot.agent != agent:
            raise ConfigurationError(
                f"{name} was started with agent {snapshot.agent or 'built-in'!r}; to run {agent!r}, "
                "stop the stack first: antiphon down"
            )


def _print(stack: Stack, already: bool, again: list[str]) -> None:
    from antiphon.console import count, out, short, table

    state = "was up already" if already else "is up"
    out.print(f"[green]The stack {state}[/], under supervisord (process {stack.supervisord}).\n")
    if again:
        out.print(f"Started again, because it had ended: {', '.join(again)}\n")
    rows = table("service", "engine", "processes", "slots", right=("slots",))
    for name, snapshot in stack.snapshots.items():
        rows.add_row("orchestrator", snapshot.agent or "built-in agent", name, "")
    kinds: dict[tuple[str, str], list[tuple[str, int]]] = {}
    for name, node in stack.nodes.items():
        kinds.setdefault((node.status.service, node.status.engine), []).append((name, node.status.slots))
    for (service, engine), members in kinds.items():
        slots = sum(slots for _, slots in members)
        rows.add_row(service, engine, f"{', '.join(name for name, _ in members)}", str(slots))
    out.print(rows)
    where = stack.run_dir.path
    total = len(stack.snapshots) + len(stack.nodes)
    out.print(f"\n[dim]{count(total, 'process', 'processes')} · run directory {short(where)}[/]")
    out.print("[dim]Next: antiphon send FILE · antiphon status · antiphon logs · antiphon down[/]")
