"""Descriptions of engines: the option objects that users write, and what travels of them.

`pocketsphinx.STT(grammar=…)` in an agent file is an `EngineOptions`. It is checked when it is made, costs no import of
the engine, and travels as an `EngineSpec`; the node that serves the engine turns it into the same class again and
checks it once more, for a peer may have sent anything.
"""

from __future__ import annotations

from typing import Any, ClassVar, Literal, Self, get_type_hints

import msgspec

from protocol.errors import OptionError

Service = Literal["vad", "stt", "llm", "tts"]
SERVICES: tuple[Service, ...] = ("vad", "stt", "llm", "tts")


class EngineSpec(msgspec.Struct, array_like=True, frozen=True):
    """Which pool of nodes serves a stage, and with what options. On the wire: `[service, engine, options]`."""

    service: Service
    engine: str
    options: dict[str, Any] = {}

    def __str__(self) -> str:
        return f"{self.service}/{self.engine}"


class EngineOptions(msgspec.Struct, frozen=True, kw_only=True):
    """Base of the option objects (`VAD`, `STT`, `LLM`, `TTS` of an engine's module).

    Subclasses declare typed fields with defaults, bounded by `Annotated[…, msgspec.Meta(ge=…, le=…)]`, and say in
    `check()` what types cannot. A wrong value raises `OptionError` where it is written.
    """

    service: ClassVar[Service]
    engine: ClassVar[str]

    def __post_init__(self) -> None:
        hints = get_type_hints(type(self), include_extras=True)
        for name in self.__struct_fields__:
            value = getattr(self, name)
            try:
                checked = msgspec.convert(value, hints[name])
            except msgspec.ValidationError as error:
                problem = str(error)[:200]  # which may repeat the value
                raise OptionError(self._owner(), name, value, problem[0].lower() + problem[1:]) from None
            msgspec.structs.force_setattr(self, name, checked)
        self.check()

    def check(self) -> None:
        """Raise `OptionError` for what a field's type cannot say."""

    def spec(self) -> EngineSpec:
        """What travels: the service, the engine and the options that differ from their defaults."""
        options = {
            field.name: msgspec.to_builtins(getattr(self, field.name))
            for field in msgspec.structs.fields(type(self))
            if getattr(self, field.name) != field.default
        }
        return EngineSpec(self.service, self.engine, options)

    @classmethod
    def from_wire(cls, options: dict[str, Any]) -> Self:
        """Make the object again from what travelled; raises `OptionError` for an unknown name or a wrong value."""
        known = cls.__struct_fields__
        for name, value in options.items():
            if name not in known:
                raise OptionError(cls._owner(), name, value, f"there is no such option; allowed are {', '.join(known)}")
        return cls(**options)

    def reject(self, option: str, allowed: str) -> OptionError:
        """An `OptionError` about one of this object's own options."""
        return OptionError(self._owner(), option, getattr(self, option), allowed)

    @classmethod
    def _owner(cls) -> str:
        return f"{cls.engine}.{cls.__name__}"
