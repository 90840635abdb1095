"""`antiphon logs`: what the processes have written, in the order of time."""

from __future__ import annotations

from contextlib import closing
from typing import TYPE_CHECKING

import click

from antiphon.options import option, run_dir_option

if TYPE_CHECKING:
    from antiphon.log_files import Entry
    from antiphon.rundir import RunDir


@click.command(short_help="Show the processes' logs, and follow them.")
@click.argument("names", metavar="[SERVICE|PROCESS]...", nargs=-1)
@option("-f", "--follow", is_flag=True, help="Go on showing what is written, until Ctrl-C.")
@option("-n", "--lines", type=click.IntRange(0), default=20, help="How many of the last entries of each log to show.")
@run_dir_option
def logs(run_dir: RunDir, names: tuple[str, ...], follow: bool, lines: int) -> None:
    """Show the end of the logs, of all processes or of those named: a service (stt), a process (stt-01), or
    supervisord. Entries of several processes are sorted by time.
    """
    from antiphon.log_files import Followed, last_entries, select

    files = select(run_dir, names)
    followed = Followed(run_dir, names, files) if follow else None
    width = max((len(name) for name in files), default=0)
    for entry in last_entries(files, lines):
        _print(entry, width)
    if followed is not None:
        with closing(followed):
            while True:
                for entry in followed.new_entries():
                    _print(entry, width)
                followed.pause()


def _print(entry: Entry, width: int) -> None:
    for line in entry.lines:
        click.echo(f"{click.style(entry.name.ljust(width), fg=entry.color)} {line}")
