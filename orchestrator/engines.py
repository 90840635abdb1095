"""Which engine serves which stage: what a user gives, what a task overrides, and the embedded defaults."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import Final

from protocol.engine import EngineOptions, EngineSpec, Service
from protocol.errors import ConfigurationError


class NotGiven(enum.Enum):
    """Tells "not given" from None, which switches a stage off."""

    NOT_GIVEN = "not given"

    def __repr__(self) -> str:
        return "NOT_GIVEN"


NOT_GIVEN: Final = NotGiven.NOT_GIVEN

EngineChoice = EngineOptions | EngineSpec | None | NotGiven

# Named here and not imported: engines live in the nodes.
DEFAULTS: dict[Service, EngineSpec] = {
    "vad": EngineSpec("vad", "silero"),
    "stt": EngineSpec("stt", "pocketsphinx"),
    "llm": EngineSpec("llm", "rule"),
    "tts": EngineSpec("tts", "espeak"),
}


@dataclass(frozen=True, slots=True)
class Engines:
    """The engine of each stage; None: this stage is switched off."""

    vad: EngineSpec | None
    stt: EngineSpec | None
    llm: EngineSpec | None
    tts: EngineSpec | None

    @property
    def used(self) -> list[EngineSpec]:
        """The stages that are on, in the order in which sound passes them."""
        return [spec for spec in (self.vad, self.stt, self.llm, self.tts) if spec is not None]


def choose(service: Service, *choices: EngineChoice) -> EngineSpec | None:
    """The first choice that was given, else the embedded default. Raises `ConfigurationError` for anything else."""
    for choice in choices:
        if choice is None:
            return None
        if choice is NOT_GIVEN:
            continue
        spec = choice.spec() if isinstance(choice, EngineOptions) else choice
        if not isinstance(spec, EngineSpec):
            raise ConfigurationError(f"{service}={choice!r}: expected an option object such as pocketsphinx.STT()")
        if spec.service != service:
            raise ConfigurationError(
                f"{service}={spec.engine}: this is an engine for {spec.service}, not for {service}"
            )
        return spec
    return DEFAULTS[service]
