"""`antiphon talk`: a conversation through microphone and loudspeaker."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from antiphon.options import connect_option, metadata_option, option, run_dir_option, user_option

if TYPE_CHECKING:
    from antiphon.rundir import RunDir
    from antiphon.talking import OpenDevices
    from antiphon.turns import Turn
    from protocol.audio import AudioFormat


@click.command(short_help="Talk to the agent through microphone and loudspeaker.")
@option("--devices", is_flag=True, help="List the devices and leave.")
@option("--microphone", metavar="DEVICE", help="Number or name of the microphone.  [default: the system's]")
@option("--loudspeaker", metavar="DEVICE", help="Number or name of the loudspeaker.  [default: the system's]")
@connect_option
@user_option
@metadata_option
@run_dir_option
def talk(
    devices: bool,
    microphone: str | None,
    loudspeaker: str | None,
    connect: tuple[str, ...],
    user: str,
    metadata: dict[str, str],
    run_dir: RunDir,
) -> None:
    """Talk until Ctrl-C. What is heard and answered is printed as it is said.

    Use headphones: there is no echo cancellation, and the agent would hear itself and think that it is interrupted.
    Needs the extra `talk` (pip install 'antiphon[talk]') and PortAudio (apt install libportaudio2).

    \b
    Exit codes: 0 the call has ended; 69 no orchestrator answers; 78 no device, or something is not installed;
    130 Ctrl-C.
    """
    import uvloop

    from antiphon import devices as hardware
    from antiphon.console import out
    from antiphon.reaching import ingest_of
    from protocol.audio import AudioFormat

    sounddevice = hardware.load()
    if devices:
        _list(hardware.listing(sounddevice))
        return
    hardware.check(sounddevice)
    format = AudioFormat()
    endpoints = ingest_of(run_dir, connect)
    out.print("[dim]Talk; Ctrl-C ends the call.[/]")
    uvloop.run(
        _call(
            endpoints,
            user,
            metadata,
            format,
            lambda record, play: hardware.Devices(sounddevice, (microphone, loudspeaker), format, record, play),
        )
    )


async def _call(
    endpoints: list[str], user: str, metadata: dict[str, str], format: AudioFormat, open_devices: OpenDevices
) -> None:
    from antiphon.speaker import PlayQueue
    from antiphon.talking import Talk
    from protocol.client import Client

    shown = _Shown()
    client = await Client.connect(
        endpoints, input=format, output=format, user=user, metadata=metadata, reports_played=True
    )
    async with client:
        with shown.line:
            await Talk(client, PlayQueue(format), shown.turn, shown.trouble).run(open_devices)


def _list(found: list[tuple[int, str, int, int]]) -> None:
    from antiphon.console import out, table

    if not found:
        out.print("There are no devices.")
        return
    rows = table("device", "name", "in", "out", right=("device", "in", "out"))
    for number, name, inputs, outputs in found:
        rows.add_row(str(number), name, str(inputs), str(outputs))
    out.print(rows)


class _Shown:
    """The conversation as it goes: what is being said on one line that changes, turns that have ended above it."""

    def __init__(self) -> None:
        from antiphon.console import out

        self._out = out
        self.line = out.status("listening …")

    def turn(self, turn: Turn, ended: bool) -> None:
        """A turn has changed, or ended."""
        from rich.markup import escape

        from antiphon.spoken import describe

        if not ended:
            self.line.update(escape((turn.answered or turn.heard)[-70:]) or "listening …")
            return
        self.line.update("listening …")
        for text in describe(turn):
            self._out.print(text)

    def trouble(self, message: str) -> None:
        """Something went wrong."""
        from rich.markup import escape

        self._out.print(f"[yellow]{escape(message)}[/]")
