"""The options that several commands share, so that they read the same everywhere."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    from antiphon.rundir import RunDir

Function = TypeVar("Function", bound=Callable[..., Any])

# Every option can be set by ANTIPHON_<COMMAND>_<OPTION>, and --help says so.
option = partial(click.option, show_envvar=True)


def _resolve(_context: click.Context, _parameter: click.Parameter, value: str | None) -> RunDir:
    from antiphon.rundir import resolve

    return resolve(value)


def run_dir_option(function: Function) -> Function:
    """`--run-dir`: which stack the command is about. Gives the function a `RunDir`."""
    return option(
        "--run-dir",
        metavar="DIR",
        envvar="ANTIPHON_RUN_DIR",
        callback=_resolve,
        help="Where the stack's sockets, pids, logs and scale files live.  [default: $XDG_STATE_HOME/antiphon or "
        "~/.local/state/antiphon]",
    )(function)


def json_option(function: Function) -> Function:
    """`--json`: one JSON document on standard output, for a program to read."""
    return option("--json", is_flag=True, help="Print one JSON document, for a program to read.")(function)


def log_level_option(function: Function) -> Function:
    """`--log-level` of the processes."""
    return option(
        "--log-level",
        type=click.Choice(["debug", "info", "warning", "error"]),
        default="info",
        envvar="ANTIPHON_LOG_LEVEL",
        help="How much is written to standard error, which is the process's log.",
    )(function)


def connect_option(function: Function) -> Function:
    """`--connect`: the orchestrators of a client. Gives the function a tuple of addresses."""
    return option(
        "--connect",
        metavar="ADDRESS",
        multiple=True,
        help="Ingest address of an orchestrator: tcp://HOST:PORT or ipc:///PATH. May be repeated.  "
        "[default: the orchestrators of the run directory]",
    )(function)


def user_option(function: Function) -> Function:
    """`--user`: who the caller is."""
    return option("--user", metavar="ID", default="", show_default=False, help="Who is calling, for the agent.")(
        function
    )


def metadata_option(function: Function) -> Function:
    """`--metadata`: what else the agent is told of the call. Gives the function a dictionary."""
    return option(
        "--metadata",
        metavar="KEY=VALUE",
        type=Line(),
        multiple=True,
        callback=_pairs,
        help="More for the agent to know of this call. May be repeated.",
    )(function)


class Line(click.types.StringParamType):
    """Text that may hold blanks. Where an option may be repeated, its variable holds one value on each line."""

    envvar_list_splitter = "\n"


def _pairs(_context: click.Context, _parameter: click.Parameter, values: tuple[str, ...]) -> dict[str, str]:
    pairs: dict[str, str] = {}
    for value in values:
        key, equals, text = value.partition("=")
        if not (key and equals):
            raise click.BadParameter(f"{value!r} is not KEY=VALUE, as in account=1234")
        pairs[key] = text
    return pairs
