"""What a person sees of a chat: who says what, as it is written, and between the lines what the agent does."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from typing import TextIO

from rich.console import Console
from rich.text import Text

from antiphon.console import err
from antiphon.own_output import abandon
from antiphon.text_session import LEFT
from orchestrator.chat import FunctionCall, FunctionOutput
from orchestrator.events import TurnMetrics
from protocol.engine import EngineSpec
from protocol.ingest import Error

Part = str | tuple[str, str]  # text, or text and its style

SHOWN = 300  # characters of an argument or an output
CONTROL = dict.fromkeys([*range(9), *range(11, 32), *range(127, 160)])  # an LLM must not command the terminal
NOT_ANSWERED = {"interrupted": "(interrupted)", "no_reply": "(no reply)"}


class ChatView:
    """The `Watcher` of a chat in text.

    `typed`: what the user says is on the screen already, at a prompt.
    """

    def __init__(self, output: TextIO, *, typed: bool) -> None:
        self.hide_prompt: Callable[[], None] = _nothing  # called before anything is printed
        self.on_gone: Callable[[], None] = _nothing  # called when nobody reads what is printed any more
        self.console = _Console(file=output, highlight=False, soft_wrap=True)
        self._output = output
        self.typed = typed
        self._writing = False  # a line of the agent has not ended
        self._answered = False  # the user has seen what became of what they said
        self._begun = False
        self._leaving = False
        self._failed_with = ""  # the code of the last error
        self._path: list[str] = []  # of handoffs that are still to be shown

    @property
    def prompt(self) -> str:
        """At which the user types."""
        with self.console.capture() as prompt:
            self.console.print(Text("You:", "bold cyan"), end=" ")
        return prompt.get()

    # --- what is said -----------------------------------------------------------------------------------------------

    def asks(self) -> None:
        """The prompt is about to be shown."""
        if self.typed:
            self._line()

    def asked(self, text: str) -> None:
        """The user has said this."""
        self._answered = False
        if not self.typed:
            if self._begun:
                self._line()
            self._line(("You:", "bold cyan"), f" {text}")

    def writes(self, speaker: str, more: str) -> None:
        if not self._writing:
            self._tell_path()
            self._print((f"{speaker}:", "bold green"), " ")
            self._writing = self._answered = True
        self._print(more)

    def said(self, speaker: str, text: str, *, interrupted: bool) -> None:
        if interrupted and self._writing:
            self._print((" (interrupted)", "yellow"))
        self._end_line()

    def turn_ended(self, turn: TurnMetrics) -> None:
        if self._leaving:
            return
        if turn.outcome in NOT_ANSWERED and not self._answered:
            self._line((NOT_ANSWERED[turn.outcome], "yellow"))
        if turn.stages.llm_first_token_ms >= 0:
            self._line((f"  {turn.stages.llm_first_token_ms:.0f} ms to the first token", "dim"))

    # --- what is done -----------------------------------------------------------------------------------------------

    def calls(self, call: FunctionCall) -> None:
        self._answered = True
        self._line(("  → ", "magenta"), _call(call))

    def returned(self, output: FunctionOutput) -> None:
        self._line(("  ← ", "magenta"), (_output(output.output), "red" if output.is_error else ""))

    def handed_over(self, old: str | None, new: str) -> None:
        if old is not None and not self._leaving:
            self._path = [*(self._path or [old]), new]

    def failed(self, error: Error) -> None:
        self._failed_with = error.code
        self._line((f"Error: {error.message}", "red"))

    def closed(self, reason: str) -> None:
        if reason != LEFT:
            why = "" if reason == self._failed_with else f": {reason}"
            self._line((f"The conversation has ended{why}.", "yellow"))

    # --- beside the conversation ------------------------------------------------------------------------------------

    def noted(self, text: str) -> None:
        """Something about the chat itself, for a person at the terminal."""
        if self.typed:
            self._line((text, "dim"))

    def leaves(self) -> None:
        """From now on only what the agent still says, prints and logs is of interest."""
        self._leaving = True

    def starting(self, spec: EngineSpec | None) -> None:
        """This engine is waited for; None: it is there. Shown for as long as it lasts."""
        if not self.typed:
            return
        self._end_line()
        if spec is not None:
            self._print((f"starting {spec} …", "dim"))
        else:
            self.raw("\r\x1b[K")

    def printed(self, text: str) -> None:
        """The agent's own code has printed this line."""
        self._line(text)

    def logged(self, level: int, text: str) -> None:
        """This was logged. It goes to standard error."""
        self._end_line()
        self.hide_prompt()
        style = "red" if level >= logging.ERROR else "yellow" if level >= logging.WARNING else "dim"
        err.print(Text(text.translate(CONTROL), style))

    # --- inside -----------------------------------------------------------------------------------------------------

    def raw(self, text: str) -> None:
        """Put this on the screen as it is."""
        self.console.file.write(text)
        self.console.file.flush()

    def _line(self, *parts: Part) -> None:
        self._end_line()
        self._tell_path()
        self._print(*parts, "\n")

    def _end_line(self) -> None:
        if self._writing:
            self._writing = False
            self._print("\n")

    def _tell_path(self) -> None:
        """Handoffs in a row, as those of inline tasks that await others, are one line."""
        path, self._path = self._path, []
        if path:
            self._end_line()
            self._print((f"— {' → '.join(path)} —", "yellow"), "\n")

    def _print(self, *parts: Part) -> None:
        self.hide_prompt()
        self._begun = True
        text = Text(end="")
        for part in parts:
            content, style = (part, "") if isinstance(part, str) else part
            text.append(content.translate(CONTROL), style)
        try:
            self.console.print(text, end="")
        except BrokenPipeError:
            abandon(self._output)
            self.on_gone()


def _nothing() -> None:
    """Nobody asked for it."""


class _Console(Console):
    def on_broken_pipe(self) -> None:
        """Leave it to who prints."""
        raise  # noqa: PLE0704  # it is called while this is handled


def _call(call: FunctionCall) -> str:
    """As one writes it in Python; what an LLM wrote wrongly is shown as it is."""
    try:
        arguments = json.loads(call.arguments or "{}")
    except ValueError:
        arguments = None
    if not isinstance(arguments, dict):
        return f"{call.name}({_short(call.arguments)})"
    given = (f"{name}={_short(json.dumps(value, ensure_ascii=False))}" for name, value in arguments.items())
    return f"{call.name}({', '.join(given)})"


def _output(output: str) -> str:
    """Text in quotes, anything else as the JSON that it is."""
    if not output:
        return "nothing"
    try:
        json.loads(output)
    except ValueError:
        output = json.dumps(output, ensure_ascii=False)
    return _short(output)


def _short(text: str) -> str:
    return text if len(text) <= SHOWN else f"{text[:SHOWN]} … ({len(text)} characters)"
