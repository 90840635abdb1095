"""Microphone and loudspeaker, through sounddevice and PortAudio; and a clear word where one of these is missing."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

from protocol.audio import SAMPLE_BYTES, AudioFormat
from protocol.errors import ConfigurationError
from protocol.limits import FRAME_MS

NO_EXTRA = "microphone and loudspeaker need the Python package sounddevice: pip install 'antiphon[talk]'"
NO_PORTAUDIO = "sounddevice finds no PortAudio library: apt install libportaudio2"
INSTEAD = "`antiphon send FILE` needs no device"


def load() -> Any:
    """The sounddevice module; raises `ConfigurationError`, saying what to install."""
    try:
        return importlib.import_module("sounddevice")
    except ImportError:
        raise ConfigurationError(NO_EXTRA) from None
    except OSError:  # the package is there, the library that it wraps is not
        raise ConfigurationError(NO_PORTAUDIO) from None


def listing(sounddevice: Any) -> list[tuple[int, str, int, int]]:
    """All devices: number, name, input channels, output channels."""
    return [
        (number, str(device["name"]), int(device["max_input_channels"]), int(device["max_output_channels"]))
        for number, device in enumerate(sounddevice.query_devices())
    ]


def check(sounddevice: Any) -> None:
    """Raise `ConfigurationError` unless there is something to record with and something to play on."""
    found = listing(sounddevice)
    missing = [
        name
        for name, some in (("microphone", any(one[2] for one in found)), ("loudspeaker", any(one[3] for one in found)))
        if not some
    ]
    if missing:
        raise ConfigurationError(f"this machine has no {' and no '.join(missing)}; {INSTEAD}")


class Devices:
    """Both streams, open for as long as the context lasts. The callbacks run in the devices' own threads.

    `record` is given what was recorded; `play` is asked for a number of bytes.
    """

    def __init__(
        self,
        sounddevice: Any,
        devices: tuple[str | None, str | None],
        format: AudioFormat,
        record: Callable[[bytes], None],
        play: Callable[[int], bytes],
    ) -> None:
        microphone, loudspeaker = (int(name) if name and name.isdigit() else name for name in devices)
        settings = {
            "samplerate": format.sample_rate,
            "channels": 1,
            "dtype": "int16",
            "blocksize": format.frame_bytes(FRAME_MS) // SAMPLE_BYTES,
        }

        def on_input(data: Any, _frames: int, _time: Any, _status: Any) -> None:
            record(bytes(data))

        def on_output(data: Any, _frames: int, _time: Any, _status: Any) -> None:
            data[:] = play(len(data))

        try:
            self._streams = [
                sounddevice.RawInputStream(device=microphone, callback=on_input, **settings),
                sounddevice.RawOutputStream(device=loudspeaker, callback=on_output, **settings),
            ]
        except (sounddevice.PortAudioError, ValueError) as error:
            raise ConfigurationError(f"{error}; see: antiphon talk --devices") from None

    def __enter__(self) -> None:
        for stream in self._streams:
            stream.start()

    def __exit__(self, *_error: object) -> None:
        for stream in self._streams:
            stream.close()
