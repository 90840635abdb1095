"""What a person sees of `antiphon run`: the logs on standard output, and what happens on standard error."""

from __future__ import annotations

import shlex
from pathlib import Path
from types import TracebackType
from typing import Self

import click
from rich.markup import escape

from antiphon.console import count, err, short
from antiphon.log_files import Entry
from antiphon.rundir import RunDir
from antiphon.stack import Missing, Stack
from antiphon.watching import Sources


class DevelopmentView:
    """The `Watcher` of a development. `agent` as the user named it; `sources` None: changes are not looked for."""

    def __init__(self, agent: str, run_dir: RunDir, sources: Sources | None) -> None:
        self._agent = agent
        self._run_dir = run_dir
        self._sources = sources
        self._spinner = err.status(f"starting {escape(agent)} …")
        self._spinning = False

    def __enter__(self) -> Self:
        self._spin(True)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._spin(False)

    def logged(self, entries: list[Entry]) -> None:
        """Without the date: it is today."""
        if not entries:
            return
        spinning = self._spinning
        self._spin(False)  # it would take what is printed to its own console
        for entry in entries:
            for number, line in enumerate(entry.lines):
                text = line.partition(" ")[2] if entry.time and number == 0 else line
                click.echo(f"{click.style(entry.name, fg=entry.color)} {text}")
        self._spin(spinning)

    def waiting(self, missing: list[Missing]) -> None:
        """In a line that is replaced."""
        self._spinner.update(f"waiting for {escape(', '.join(one.name for one in missing))} …")

    def ready(self, stack: Stack, took_s: float, *, again: bool) -> None:
        """The first time, with what to do next."""
        self._spin(False)
        err.print(f"[bold green]READY[/] {'again ' if again else ''}after {took_s:.1f} s: {escape(self._agent)}")
        if again:
            return
        where = shlex.quote(str(self._run_dir.path))
        for what, command in (
            ("speak", f"antiphon talk --run-dir {where}"),
            ("write", f"antiphon send --run-dir {where} --text 'Hello!'"),
            ("look", f"antiphon status --run-dir {where}"),
        ):
            err.print(f"  [dim]{what:<7}[/]{escape(command)}")
        if self._sources is not None:
            watched = f"{count(len(self._sources), 'Python file')} in {short(self._sources.top)}"
            err.print(f"  [dim]watched {escape(watched)}[/]")
        err.print("  [dim]Ctrl-C stops it.[/]")

    def late(self, missing: list[Missing]) -> None:
        """With each reason."""
        why = "; ".join(f"{one.name} {one.why}" if one.process else one.why for one in missing)
        err.print(f"[yellow]Still not ready: {escape(why)}[/]")

    def changing(self, changed: set[Path], conversations: int) -> None:
        """With what that costs."""
        names = ", ".join(self._relative(path) for path in sorted(changed))
        cost = f"; {count(conversations, 'conversation was', 'conversations were')} ended" if conversations else ""
        err.print(f"[bold]Changed:[/] {escape(names + cost)}")
        self._spinner.update("starting the orchestrator …")
        self._spin(True)

    def kept(self, problems: list[str]) -> None:
        """With the place of each."""
        for problem in problems:
            err.print(f"[red]{escape(problem)}[/]")
        err.print("[yellow]What runs is kept until that is mended.[/]")

    def failed(self, missing: list[Missing]) -> None:
        """The reason was logged."""
        self._spin(False)
        names = ", ".join(one.name for one in missing)
        err.print(f"[yellow]{escape(names)} can't use this agent, and is started again when you have changed it.[/]")

    def ended(self, conversations: int) -> None:
        """Whatever the reason."""
        self._spin(False)
        cost = f"; {count(conversations, 'conversation was', 'conversations were')} ended" if conversations else ""
        err.print(f"Stopped{cost}.")

    def _spin(self, on: bool) -> None:
        if on != self._spinning:
            (self._spinner.start if on else self._spinner.stop)()
            self._spinning = on

    def _relative(self, path: Path) -> str:
        top = self._sources.top if self._sources is not None else path.parent
        return str(path.relative_to(top)) if path != top and path.is_relative_to(top) else path.name
