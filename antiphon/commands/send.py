"""`antiphon send`: recorded speech and written turns in, the agent's answers out."""

from __future__ import annotations

import contextlib
import sys
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Self

import click

from antiphon.options import Line, connect_option, json_option, metadata_option, option, run_dir_option, user_option

if TYPE_CHECKING:
    from rich.progress import TaskID

    from antiphon.rundir import RunDir
    from antiphon.turns import Turn


@click.command(short_help="Send recorded speech, hear and read the answers.")
@click.argument("files", metavar="[FILE]...", nargs=-1, type=click.Path(path_type=Path))
@option(
    "--text", metavar="TEXT", multiple=True, type=Line(), help="A turn in writing, after the files. May be repeated."
)
@option(
    "--out", metavar="FILE.wav", type=click.Path(path_type=Path), help="Write all that the agent says to this file."
)
@option(
    "--pace",
    type=click.Choice(["realtime", "fast"]),
    default="realtime",
    help="Send as a microphone would and play replies by the clock; or as fast as it is taken, and wait for nothing.",
)
@json_option
@connect_option
@user_option
@metadata_option
@run_dir_option
def send(
    files: tuple[Path, ...],
    text: tuple[str, ...],
    out: Path | None,
    pace: str,
    json: bool,
    connect: tuple[str, ...],
    user: str,
    metadata: dict[str, str],
    run_dir: RunDir,
) -> None:
    """Send sound files in one conversation, one turn after the other, and print what was heard and answered.

    Any file that libsndfile reads (WAV, FLAC, Ogg, MP3, AIFF, …), of any rate and number of channels. Each is followed
    by silence until its turn has ended. The time printed with an answer is from the end of speech, as it was sent, to
    the first byte of the answer here.

    \b
    Exit codes: 0 all was answered; 1 something was not heard or not answered; 66 a file cannot be read;
    69 no orchestrator answers; 73 --out cannot be written; 78 wrong configuration.
    """
    if not files and not text:
        raise click.UsageError("nothing to send: name a FILE, or give --text")
    import uvloop

    from antiphon import exit_codes
    from antiphon.exchange import Exchange, hold
    from antiphon.reaching import ingest_of
    from antiphon.reply_file import ReplyFile
    from antiphon.sound_file import SoundFile

    sounds = [SoundFile(path) for path in files]
    exchange = Exchange(
        endpoints=ingest_of(run_dir, connect),
        files=sounds,
        texts=text,
        fast=pace == "fast",
        user=user,
        metadata=metadata,
    )
    shown = _Shown(quiet=json)
    with shown, contextlib.ExitStack() as open_files:
        reply_file = open_files.enter_context(ReplyFile(out, exchange.output)) if out is not None else None
        result = uvloop.run(hold(exchange, shown, reply_file))
    if json:
        from antiphon.console import print_json

        print_json(result.document())
    elif reply_file is not None:
        shown.note(f"{reply_file.written_ms / 1000:.1f} s of the agent's speech are in {reply_file.path}")
    if result.failure is not None:
        raise result.failure
    click.get_current_context().exit(exit_codes.OK if result.answered else exit_codes.FAILED)


class _Shown:
    """What a person sees: turns on standard output; progress and partial transcripts on a terminal's standard error."""

    def __init__(self, *, quiet: bool) -> None:
        from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

        from antiphon.console import err

        self._quiet = quiet
        self._source: str | None = None
        self._progress = Progress(
            TextColumn("[dim]{task.description}"),
            BarColumn(20),
            TimeRemainingColumn(compact=True),
            TextColumn("{task.fields[heard]}", markup=False),
            console=err,
            transient=True,
            disable=not err.is_terminal,
            redirect_stdout=sys.stdout.isatty(),
        )
        self._task: TaskID | None = None

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()

    def sending(self, source: str, done_ms: float, total_ms: float) -> None:
        """Progress of a file; a new file replaces the one before."""
        name = Path(source).name
        if self._task is None or self._progress.tasks[0].description != name:
            if self._task is not None:
                self._progress.remove_task(self._task)
            self._task = self._progress.add_task(name, total=total_ms, heard="")
        self._progress.update(self._task, completed=done_ms)

    def heard(self, turn: Turn) -> None:
        """A partial transcript."""
        if self._task is not None:
            self._progress.update(self._task, heard=(turn.answered or turn.heard)[-60:])

    def ended(self, turn: Turn) -> None:
        """A turn, whole."""
        if self._task is not None:
            self._progress.update(self._task, heard="")
        if not self._quiet:
            from antiphon.spoken import describe

            self._heading(turn.source)
            for line in describe(turn):
                self.note(line)

    def silent(self, source: str) -> None:
        """A file without speech."""
        if not self._quiet:
            self._heading(source)
            self.note("  [yellow]no speech was found in this file[/]")

    def trouble(self, message: str) -> None:
        """Something went wrong; the conversation goes on."""
        from rich.markup import escape

        from antiphon.console import err

        err.print(f"[yellow]{escape(message)}[/]")

    def note(self, text: str) -> None:
        """A line of its own."""
        from antiphon.console import out

        out.print(text)

    def _heading(self, source: str) -> None:
        from rich.markup import escape

        if source != self._source:
            self._source = source
            self.note(f"[bold]{escape(Path(source).name) if source else 'in writing'}[/]")
