"""`antiphon vad`, `stt`, `llm`, `tts`: one node process each. Supervisors, containers and people start these."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import click

from antiphon.options import log_level_option, option, run_dir_option

if TYPE_CHECKING:
    from antiphon.rundir import RunDir

# As services.runtime.loading has them; repeated because importing that loads numpy, and --help must be quick.
DEFAULT_ENGINES = {"vad": "silero", "stt": "pocketsphinx", "llm": "rule", "tts": "espeak"}
WHAT_IT_DOES = {
    "vad": "Run a node that finds speech in audio.",
    "stt": "Run a node that turns speech into text.",
    "llm": "Run a node that writes the agent's replies.",
    "tts": "Run a node that speaks the agent's replies.",
}
EXPLANATION = """

    It loads its engine, registers at every orchestrator that it finds, and serves conversations until it is told to
    stop: SIGTERM drains it. Starting another one is scaling.

    \b
    Exit codes: 0 drained; 75 failed, start me again; 78 wrong configuration.
"""


def _node_command(service: str) -> click.Command:
    @click.command(service, help=WHAT_IT_DOES[service] + EXPLANATION, short_help=WHAT_IT_DOES[service])
    @option(
        "--engine",
        metavar="NAME",
        default=DEFAULT_ENGINES[service],
        help=f"A module under services/{service}/, or the dotted path of a module of your own.",
    )
    @option("--slots", type=click.IntRange(1), help="Conversations served at once.  [default: the engine's own]")
    @option(
        "--connect",
        metavar="ADDRESS",
        multiple=True,
        help="Nodes socket of the orchestrators: tcp://HOST:PORT (every address of the name is dialled) or an ipc:// "
        "path or pattern. May be repeated.  [default: every orchestrator of the run directory]",
    )
    @option("--name", metavar="NAME", help=f"Unique name of this process.  [default: {service}-PID]")
    @option("--drain-s", type=click.FloatRange(0), default=30.0, help="How long SIGTERM waits for conversations.")
    @log_level_option
    @run_dir_option
    def command(
        engine: str,
        slots: int | None,
        connect: tuple[str, ...],
        name: str | None,
        drain_s: float,
        log_level: str,
        run_dir: RunDir,
    ) -> None:
        from antiphon import log_format
        from protocol.ids import process_name
        from services.runtime.process import NodeSettings, run

        log_format.configure(log_level)
        if not connect:
            run_dir.check()
        settings = NodeSettings(
            service=service,
            engine=engine,
            slots=slots,
            connect=connect or (run_dir.endpoint("*", "nodes"),),
            name=name or process_name(service),
            drain_s=drain_s,
            backoff_dir=run_dir.boots,
        )
        sys.exit(run(settings))

    return command


vad = _node_command("vad")
stt = _node_command("stt")
llm = _node_command("llm")
tts = _node_command("tts")
