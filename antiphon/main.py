"""The `antiphon` command: the list of its commands, and how errors leave it. Each command is a module of its own."""

from __future__ import annotations

import importlib
from typing import Any

import click

from protocol.errors import AntiphonError

# In the order and under the headings of --help. Modules are imported when their command is used or described.
SECTIONS: dict[str, dict[str, str]] = {
    "Writing an agent": {
        "run": "antiphon.commands.run:run",
        "chat": "antiphon.commands.chat:chat",
    },
    "The stack on this machine": {
        "up": "antiphon.commands.up:up",
        "status": "antiphon.commands.status:status",
        "scale": "antiphon.commands.scale:scale",
        "logs": "antiphon.commands.logs:logs",
        "doctor": "antiphon.commands.doctor:doctor",
        "down": "antiphon.commands.down:down",
    },
    "A conversation": {
        "send": "antiphon.commands.send:send",
        "talk": "antiphon.commands.talk:talk",
    },
    "The processes themselves": {
        "orchestrator": "antiphon.commands.orchestrator:orchestrator",
        "vad": "antiphon.commands.node:vad",
        "stt": "antiphon.commands.node:stt",
        "llm": "antiphon.commands.node:llm",
        "tts": "antiphon.commands.node:tts",
    },
}


class Commands(click.Group):
    """A group that imports a command when it is wanted, and tells errors in one line."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """All names, in the order of --help."""
        return [name for section in SECTIONS.values() for name in section]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import the command."""
        for section in SECTIONS.values():
            if cmd_name in section:
                module, _, attribute = section[cmd_name].partition(":")
                command: click.Command = getattr(importlib.import_module(module), attribute)
                return command
        return None

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The commands under their headings."""
        for heading, section in SECTIONS.items():
            rows = []
            for name in section:
                command = self.get_command(ctx, name)
                rows.append((name, command.get_short_help_str(100) if command is not None else ""))
            with formatter.section(heading):
                formatter.write_dl(rows)

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command; what a user can do something about ends in one line and an exit code, not in a traceback."""
        from antiphon import exit_codes

        try:
            return super().invoke(ctx)
        except AntiphonError as error:
            click.secho(f"antiphon: {error}", fg="red", err=True)
            ctx.exit(exit_codes.of(error))
        except KeyboardInterrupt:
            click.echo(err=True)
            ctx.exit(exit_codes.INTERRUPTED)


@click.group(
    cls=Commands,
    context_settings={
        "auto_envvar_prefix": "ANTIPHON",
        "show_default": True,
        "help_option_names": ["-h", "--help"],
        "max_content_width": 110,
    },
)
@click.version_option(package_name="antiphon", prog_name="antiphon")
def main() -> None:
    """Antiphon runs spoken conversations through processes of their own: vad, stt, llm, tts and the orchestrator.

    \b
      antiphon up                      start the stack on this machine
      antiphon send hello.wav          send recorded speech, hear and read what is answered
      antiphon scale stt=4             more processes, while it runs
      antiphon down                    stop it

    Every option can also be set in the environment; each command's --help names the variables.
    """
