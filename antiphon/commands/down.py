"""`antiphon down`: stop the stack on this machine."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from antiphon.options import option, run_dir_option

if TYPE_CHECKING:
    from antiphon.rundir import RunDir


@click.command(short_help="Stop the stack on this machine.")
@option("--now", is_flag=True, help="Do not wait for conversations to end.")
@option("--drain-s", metavar="SECONDS", type=click.FloatRange(0), default=55.0, help="Longest wait for conversations.")
@run_dir_option
def down(run_dir: RunDir, now: bool, drain_s: float) -> None:
    """Stop the orchestrators, which let their conversations end; then the nodes; then supervisord.

    Leaves no process behind, nor stale files, whatever state the stack was in. Safe to repeat. Processes that
    `antiphon scale` had added are forgotten: the next `up` starts the shipped stack.
    """
    from antiphon.console import count, err, out, short
    from antiphon.stopping import stop

    if not run_dir.path.is_dir():
        out.print(f"Nothing runs in {short(run_dir.path)}.")
        return
    with run_dir.lock(), err.status("stopping …") as spinner:
        stopped = stop(run_dir, 1.0 if now else drain_s, lambda text: spinner.update(f"{text} …"))
    if stopped:
        out.print(f"Stopped {count(stopped, 'process', 'processes')} and supervisord.")
    else:
        out.print(f"Nothing runs in {short(run_dir.path)}.")
    for name in run_dir.endpoints("control"):
        err.print(f"[yellow]{name} still runs: it was not started by supervisord. Stop it where it was started.[/]")
