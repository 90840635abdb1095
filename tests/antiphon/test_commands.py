"""Every command explains itself, and every option can be set in the environment."""

from __future__ import annotations

from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from antiphon.main import SECTIONS, main
from services.runtime.loading import DEFAULT_ENGINES

NAMES = [name for section in SECTIONS.values() for name in section]
SHARED = {"run_dir": "ANTIPHON_RUN_DIR", "log_level": "ANTIPHON_LOG_LEVEL"}


def command(name: str) -> click.Command:
    found = main.get_command(click.Context(main), name)
    assert found is not None
    return found


def test_help_lists_every_command_under_its_heading() -> None:
    printed = CliRunner().invoke(main, ["--help"]).output
    for heading, section in SECTIONS.items():
        assert heading in printed
        for name in section:
            assert f"  {name} " in printed


@pytest.mark.parametrize("name", NAMES)
def test_every_command_says_what_it_does_and_what_its_exit_codes_mean(name: str) -> None:
    found = CliRunner().invoke(main, [name, "--help"])
    assert found.exit_code == 0
    assert command(name).short_help
    for option in command(name).params:
        if isinstance(option, click.Option) and option.name != "help":
            assert option.help, f"{name} {option.name}"
            assert option.opts[0] in found.output


@pytest.mark.parametrize("name", NAMES)
def test_every_option_has_a_variable_named_after_its_flag_and_help_shows_it(name: str) -> None:
    printed = "".join(CliRunner().invoke(main, [name, "--help"], terminal_width=1000).output.split("\n"))
    for option in command(name).params:
        if not isinstance(option, click.Option) or option.name == "help":
            continue
        flag = next(one for one in option.opts if one.startswith("--")).lstrip("-").replace("-", "_").upper()
        variable = SHARED.get(option.name or "", f"ANTIPHON_{name.upper()}_{flag}")
        assert f"[env var: {variable}" in printed, f"{name} {option.name}"


def test_a_variable_that_may_hold_several_texts_holds_one_on_each_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ANTIPHON_SEND_TEXT", "What time is it?\nThank you.")
    context = main.make_context("antiphon", ["send"], auto_envvar_prefix="ANTIPHON", resilient_parsing=False)
    with command("send").make_context("send", [], parent=context) as made:
        assert made.params["text"] == ("What time is it?", "Thank you.")


def test_the_default_engines_are_those_of_the_nodes() -> None:
    from antiphon.commands.node import DEFAULT_ENGINES as SHOWN

    assert SHOWN == DEFAULT_ENGINES


@pytest.mark.parametrize(
    "arguments",
    [
        ["send"],
        ["send", "--metadata", "x", "--text", "a"],
        ["send", "--pace", "slow", "x"],
        ["up", "--agent", "no_colon"],
    ],
)
def test_wrong_options_are_usage_errors(arguments: list[str], tmp_path: Path) -> None:
    done = CliRunner().invoke(main, [*arguments, "--run-dir", str(tmp_path)])
    assert done.exit_code == 2
    assert "Error: " in done.output


def test_an_error_is_one_line_and_no_traceback(tmp_path: Path) -> None:
    done = CliRunner().invoke(main, ["up", "--run-dir", str(tmp_path / ("x" * 120))])
    assert done.exit_code == 78
    assert done.output.startswith("antiphon: run directory ")
    assert "Traceback" not in done.output
