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
    return option("--json", "as_json", is_flag=True, help="Print one JSON document, for a program to read.")(function)


def log_level_option(function: Function) -> Function:
    """`--log-level` of the processes."""
    return option(
        "--log-level",
        type=click.Choice(["debug", "info", "warning", "error"]),
        default="info",
        envvar="ANTIPHON_LOG_LEVEL",
        help="How much is written to standard error, which is the process's log.",
    )(function)
