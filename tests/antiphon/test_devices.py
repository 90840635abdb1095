"""Without the extra, PortAudio or a device, `antiphon talk` says what is missing."""

from __future__ import annotations

import importlib
from types import SimpleNamespace
from typing import Any

import pytest

from antiphon import devices
from protocol.errors import ConfigurationError


def importing(error: Exception) -> Any:
    def fail(_name: str) -> None:
        raise error

    return fail


def test_a_missing_package_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib, "import_module", importing(ModuleNotFoundError("sounddevice")))
    with pytest.raises(ConfigurationError, match=r"antiphon\[talk\]"):
        devices.load()


def test_a_missing_library_names_the_debian_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib, "import_module", importing(OSError("PortAudio library not found")))
    with pytest.raises(ConfigurationError, match="libportaudio2"):
        devices.load()


def having(*channels: tuple[int, int]) -> Any:
    found = [{"name": "a", "max_input_channels": one, "max_output_channels": two} for one, two in channels]
    return SimpleNamespace(query_devices=lambda: found)


def test_a_machine_without_devices_is_told_what_works_instead() -> None:
    with pytest.raises(ConfigurationError, match=r"no microphone and no loudspeaker; .antiphon send"):
        devices.check(having())
    with pytest.raises(ConfigurationError, match="has no microphone;"):
        devices.check(having((0, 2)))
    devices.check(having((1, 0), (0, 2)))


def test_devices_are_listed_with_their_numbers() -> None:
    assert devices.listing(having((1, 0), (0, 2))) == [(0, "a", 1, 0), (1, "a", 0, 2)]
