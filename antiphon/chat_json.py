"""A chat for a program to read: one JSON object a line for each thing that happened."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, TextIO

import click

from antiphon.own_output import abandon
from orchestrator.chat import FunctionCall, FunctionOutput
from orchestrator.events import TurnMetrics
from protocol.engine import EngineSpec
from protocol.ingest import Error


class ChatJson:
    """The `Watcher` of a chat. `kind` says what an object is; its fields have the names of the chat context's items."""

    def __init__(self, output: TextIO) -> None:
        self.on_gone: Callable[[], None] = _nothing  # called when nobody reads what is printed any more
        self._output = output

    def asks(self) -> None:
        """Nobody is asked."""

    def asked(self, text: str) -> None:
        """The user has said this."""
        self._write("message", role="user", text=text)

    def writes(self, speaker: str, more: str) -> None:
        """The message comes when it is complete."""

    def said(self, speaker: str, text: str, *, interrupted: bool) -> None:
        if text:
            self._write("message", role="assistant", task=speaker, text=text, interrupted=interrupted)

    def turn_ended(self, turn: TurnMetrics) -> None:
        """It shows in the rest."""

    def calls(self, call: FunctionCall) -> None:
        self._write("function_call", name=call.name, arguments=_arguments(call.arguments), call_id=call.call_id)

    def returned(self, output: FunctionOutput) -> None:
        self._write(
            "function_output",
            name=output.name,
            output=output.output,
            is_error=output.is_error,
            call_id=output.call_id,
        )

    def handed_over(self, old: str | None, new: str) -> None:
        self._write("handoff", from_task=old, to_task=new)

    def failed(self, error: Error) -> None:
        self._write("error", code=error.code, category=error.category, message=error.message)

    def closed(self, reason: str) -> None:
        self._write("closed", reason=reason)

    def noted(self, text: str) -> None:
        """It is for a person."""

    def leaves(self) -> None:
        """`closed` says so."""

    def starting(self, spec: EngineSpec | None) -> None:
        """It is for a person."""

    def printed(self, text: str) -> None:
        """The agent's own code has printed this line. It goes to standard error."""
        click.echo(text, err=True)

    def logged(self, level: int, text: str) -> None:
        """This was logged. It goes to standard error."""
        click.echo(text, err=True)

    def _write(self, kind: str, **fields: Any) -> None:
        try:
            self._output.write(json.dumps({"kind": kind, **fields}, ensure_ascii=False) + "\n")
            self._output.flush()
        except BrokenPipeError:
            abandon(self._output)
            self.on_gone()


def _nothing() -> None:
    """Nobody asked for it."""


def _arguments(written: str) -> Any:
    """The object that they are; as text if the LLM has written something else."""
    try:
        return json.loads(written or "{}")
    except ValueError:
        return written
