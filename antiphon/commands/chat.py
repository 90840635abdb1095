"""`antiphon chat`: the agent that is being written, by text in the terminal."""

from __future__ import annotations

import logging
import sys
from contextlib import ExitStack, redirect_stdout
from io import TextIOWrapper
from pathlib import Path
from typing import TYPE_CHECKING

import click

from antiphon.options import metadata_option, option, user_option

if TYPE_CHECKING:
    from antiphon.chat_json import ChatJson
    from antiphon.chat_view import ChatView
    from antiphon.terminal import Lines


@click.command(short_help="Write to your agent in the terminal.")
@click.argument("agent", metavar="FILE.py[:FACTORY]")
@option("--json", is_flag=True, help="Print one JSON object a line for each thing that happens, for a program to read.")
@user_option
@metadata_option
@option(
    "--log-level",
    type=click.Choice(["debug", "info", "warning", "error"]),
    default="warning",
    envvar="ANTIPHON_LOG_LEVEL",
    help="How much of the log is written to standard error.",
)
def chat(agent: str, json: bool, user: str, metadata: dict[str, str], log_level: str) -> None:
    """Write to an agent and read what it answers, with the functions that it calls and the tasks that it hands over to.

    The agent runs in this process, as in a conversation without sound: no stack, vad, stt or tts is needed. The engine
    that its llm names is started, and ends with the chat.

    Ctrl-C interrupts the agent. /quit, Ctrl-D, or Ctrl-C twice within 2 seconds hang up, and on_exit runs. From a pipe
    each line is a turn: `echo hello | antiphon chat my_agent.py` prints the conversation and ends.

    \b
    Exit codes: 0 the chat has ended; 1 the agent failed, or did not answer a line of a pipe; 69 an engine does not
    start; 78 wrong configuration; 130 stopped by Ctrl-C.
    """
    import asyncio

    import uvloop

    from antiphon.chat_json import ChatJson
    from antiphon.chat_view import ChatView
    from antiphon.chatting import Chat, opening_of
    from antiphon.own_output import Apart
    from orchestrator.factory import AgentName, load_factory

    if sys.stdin is None:
        raise click.UsageError("standard input is closed: there is nobody to chat with")
    name = AgentName.parse(agent)
    found = name.find()
    person = not json and sys.stdin.isatty() and sys.stdout.isatty()
    with ExitStack() as open_things:
        view: ChatJson | ChatView = ChatJson(sys.stdout) if json else ChatView(sys.stdout, typed=person)
        held = Chat(_lines(open_things, view), view, strict=not sys.stdin.isatty())
        view.on_gone = held.leave
        logging.basicConfig(level=log_level.upper(), handlers=[_log(view)], force=True)
        open_things.enter_context(redirect_stdout(Apart(sys.stdout, view.printed)))
        runner = open_things.enter_context(asyncio.Runner(loop_factory=uvloop.new_event_loop))
        modules = found.parent if found is not None and name.file is not None else Path.cwd()
        code = runner.run(held.run(load_factory(str(name)), opening_of(user, metadata), modules))
    click.get_current_context().exit(code)


def _lines(open_things: ExitStack, view: ChatView | ChatJson) -> Lines:
    """What the user says: at a prompt, or as it comes."""
    from antiphon.chat_json import ChatJson
    from antiphon.terminal import PipedLines, TypedLines

    if isinstance(view, ChatJson) or not view.typed:
        return PipedLines()
    if isinstance(sys.stdin, TextIOWrapper):
        sys.stdin.reconfigure(errors="replace")
    lines = open_things.enter_context(TypedLines(view.prompt, view.raw))
    view.hide_prompt = lines.hide
    return lines


def _log(view: ChatView | ChatJson) -> logging.Handler:
    """The log, without what the view shows as an error anyhow."""
    from antiphon.compact_log import CompactLog

    handler = CompactLog(view.logged)
    handler.addFilter(lambda record: not (record.name == "orchestrator.session" and record.levelno == logging.WARNING))
    return handler
