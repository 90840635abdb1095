"""`antiphon doctor`: is this machine fit, is everything installed, and how is the stack."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from antiphon.options import json_option, run_dir_option

if TYPE_CHECKING:
    from antiphon.findings import Finding
    from antiphon.rundir import RunDir

COLORS = {"ok": "green", "warning": "yellow", "problem": "red"}


@click.command(short_help="Check this machine and the stack on it.")
@json_option
@run_dir_option
def doctor(run_dir: RunDir, json: bool) -> None:
    """Check Python, memory, limits, the run directory, that every engine loads, and the stack if one runs.

    Each line is ok, a warning or a problem, with what to do about it. Changes nothing.

    \b
    Exit codes: 0 no problem; 1 problems.
    """
    from antiphon import examine_engines, examine_machine, examine_stack, exit_codes
    from antiphon.console import err, print_json

    with err.status("looking …"):
        findings = [
            *examine_machine.examine(run_dir),
            *examine_engines.examine(),
            *examine_stack.examine(run_dir),
        ]
    healthy = all(finding.level != "problem" for finding in findings)
    if json:
        from dataclasses import asdict

        print_json({"healthy": healthy, "findings": [asdict(finding) for finding in findings]})
    else:
        _print(findings)
    click.get_current_context().exit(exit_codes.OK if healthy else exit_codes.FAILED)


def _print(findings: list[Finding]) -> None:
    from rich.markup import escape

    from antiphon.console import count, out

    for finding in findings:
        level = f"[{COLORS[finding.level]}]{finding.level:<8}[/]"
        out.print(f"{level} {escape(finding.about)}: {escape(finding.what)}")
        if finding.do:
            out.print(f"         [dim]→[/] {escape(finding.do)}")
    problems = sum(finding.level == "problem" for finding in findings)
    out.print("\n[green]No problem.[/]" if not problems else f"\n[red]{count(problems, 'problem')}.[/]")
