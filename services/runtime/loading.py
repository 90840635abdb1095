"""Finds the engine that a node process was asked to run. Knows names and imports, nothing of what an engine does."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable
from types import ModuleType
from typing import Any, cast

import services
from protocol.engine import SERVICES, EngineOptions, Service
from protocol.errors import EngineUnavailable
from services.engine import Engine, LlmEngine, SttEngine, TtsEngine, VadEngine
from services.llm.serving import LlmServing
from services.runtime.stream import Serving
from services.stt.serving import SttServing
from services.tts.serving import TtsServing
from services.vad.serving import VadServing

BASES: dict[Service, type[Engine[Any]]] = {"vad": VadEngine, "stt": SttEngine, "llm": LlmEngine, "tts": TtsEngine}
SERVINGS: dict[Service, Callable[[Any], Serving]] = {
    "vad": VadServing,
    "stt": SttServing,
    "llm": LlmServing,
    "tts": TtsServing,
}
DEFAULT_ENGINES: dict[Service, str] = {"vad": "silero", "stt": "pocketsphinx", "llm": "rule", "tts": "espeak"}


def engines_of(service: Service) -> list[str]:
    """The modules under `services/<service>/` that hold an engine of that name."""
    package = importlib.import_module(f"{services.__name__}.{service}")
    names = (module.name for module in pkgutil.iter_modules(package.__path__))
    return sorted(name for name in names if _options_class(f"{package.__name__}.{name}", service) is not None)


def load_engine(service: str, name: str) -> Engine[Any]:
    """Make the engine `name` of `service`; `name` may be a dotted module path of the user's own.

    Raises `EngineUnavailable`, naming what exists or the extra to install. The model is not loaded yet.
    """
    if service not in SERVICES:
        raise EngineUnavailable(f"there is no service {service!r}; services are {', '.join(SERVICES)}")
    path = name if "." in name else f"services.{service}.{name}"
    module = _import(path, service, name)
    engine = getattr(module, "Engine", None)
    base = BASES[service]
    if not (isinstance(engine, type) and issubclass(engine, base)):
        raise EngineUnavailable(f"module {path} has no class Engine that extends {base.__module__}.{base.__name__}")
    options = getattr(engine, "options_type", None)
    if not (isinstance(options, type) and issubclass(options, EngineOptions) and hasattr(options, "engine")):
        raise EngineUnavailable(f"{path}.Engine.options_type is no EngineOptions with an engine's name: {options!r}")
    return engine()


def _import(path: str, service: str, name: str) -> ModuleType:
    """The module of an engine; raises `EngineUnavailable` if it, or a package that it needs, is not there."""
    if not all(part.isidentifier() for part in path.split(".")):
        raise _unknown(service, name)
    try:
        return importlib.import_module(path)
    except ModuleNotFoundError as error:
        missing = error.name or ""
        if path == missing or path.startswith(f"{missing}."):
            raise _unknown(service, name) from None
        install = missing if "." in name else f"'antiphon[{name}]'"
        raise EngineUnavailable(
            f"engine {service}/{name} needs the Python package {missing!r}: pip install {install}"
        ) from None


def _unknown(service: str, name: str) -> EngineUnavailable:
    known = ", ".join(engines_of(cast(Service, service)))
    return EngineUnavailable(f"there is no engine {service}/{name}; installed are {known}")


def serving_of(service: str, engine: Engine[Any]) -> Serving:
    """How streams of this service meet their engine."""
    return SERVINGS[cast(Service, service)](engine)


def engine_name(engine: Engine[Any]) -> str:
    """The name by which sessions ask for this engine."""
    return engine.options_type.engine


def _options_class(path: str, service: Service) -> type | None:
    """The option class that an engine's module has (`STT` for stt), or None: then it is no engine's module."""
    try:
        module = importlib.import_module(path)
    except ImportError:  # an extra that is not installed; `antiphon doctor` names those
        return None
    found = getattr(module, service.upper(), None)
    return found if isinstance(found, type) and hasattr(module, "Engine") else None
