"""`antiphon scale`: more or fewer processes of a service, while the stack runs."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from antiphon.options import option, run_dir_option

if TYPE_CHECKING:
    from antiphon.rundir import RunDir


def _parse(_context: click.Context, _parameter: click.Parameter, values: tuple[str, ...]) -> dict[str, int]:
    from antiphon.scaling import check
    from protocol.errors import ConfigurationError

    wanted: dict[str, int] = {}
    for value in values:
        service, equals, number = value.partition("=")
        if not (equals and number.strip().lstrip("+-").isdigit()):
            raise click.BadParameter(f"{value!r} is not SERVICE=N, as in stt=4")
        try:
            check(service.strip(), int(number))
        except ConfigurationError as error:
            raise click.BadParameter(str(error)) from None
        wanted[service.strip()] = int(number)
    return wanted


@click.command(short_help="Set the number of processes of a service, live.")
@click.argument("wanted", metavar="SERVICE=N...", nargs=-1, required=True, callback=_parse)
@option("--timeout", metavar="SECONDS", type=click.FloatRange(1), default=30.0, help="How long new ones may take.")
@run_dir_option
def scale(run_dir: RunDir, wanted: dict[str, int], timeout: float) -> None:
    """Start or stop processes until each SERVICE (vad, stt, llm, tts, orchestrator) has N of them.

    No other process is touched. New ones are ready when this returns; the least used ones are stopped, and drain
    first: their conversations go on until they end, at most 30 s.

    \b
      antiphon scale stt=4 vad=1
    """
    from antiphon import conf
    from antiphon.console import err, out
    from antiphon.scaling import scale as apply

    if not run_dir.path.is_dir():
        from protocol.errors import Unavailable

        raise Unavailable(f"no stack runs in {run_dir.path}; start one with: antiphon up")
    with run_dir.lock(), err.status("scaling …") as spinner:
        plans = apply(run_dir, conf.shipped(), wanted, timeout, lambda text: spinner.update(f"{text} …"))
    for plan in plans:
        changes = []
        if plan.new_names:
            changes.append(f"[green]started {', '.join(plan.new_names)}[/]")
        if plan.stop:
            changes.append(f"stopped {', '.join(process.name for process in plan.stop)}")
        out.print(f"{plan.service}={wanted[plan.service]}: {'; '.join(changes) or 'as it was'}")
