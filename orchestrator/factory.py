"""From `module:factory` to the agent of each conversation: finds the user's function, calls it, and tells what failed.

The agent file is imported by its module name, with the working directory last on the path: a folder named like one of
our packages beside it can then not take the place of ours. What it would have meant is said instead.
"""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import logging
import os
import sys
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from orchestrator.agent import VoiceAgent
from protocol.errors import AntiphonError, ConfigurationError

log = logging.getLogger(__name__)

BUILTIN = "orchestrator.builtin:agent"
OURS = ("protocol", "services", "orchestrator", "antiphon")


@dataclass(frozen=True, slots=True)
class SessionInfo:
    """What a factory is told of the conversation that it makes an agent for."""

    id: str
    user_id: str = ""
    metadata: dict[str, str] = field(default_factory=dict)


class AgentFailed(AntiphonError):
    """The user's factory raised, or gave something that is no VoiceAgent."""

    code = "agent_failed"


AgentFactory = Callable[[SessionInfo], Awaitable[VoiceAgent]]


def load_factory(name: str | None) -> AgentFactory:
    """The function that makes agents, from `module:factory`; None: the built-in agent.

    Raises `ConfigurationError` that names what is wrong: the name's form, a module that is not found or fails while it
    is imported, an attribute that is missing or can't be called with one session.
    """
    module_name, _, attribute = (name or BUILTIN).partition(":")
    if module_name.endswith(".py") or not (_dotted(module_name) and _dotted(attribute)):
        raise ConfigurationError(
            f"--agent {name!r} is not MODULE:FACTORY, as in my_agent:agent for the function `agent` in my_agent.py"
        )
    module = _import(module_name)
    made: Any = module
    for part in attribute.split("."):
        if not hasattr(made, part):
            defined = sorted(key for key, value in vars(module).items() if callable(value) and not key.startswith("_"))
            raise ConfigurationError(
                f"--agent {name}: module {module_name!r} ({_where(module)}) has no {attribute!r}; "
                f"it has {', '.join(defined) or 'nothing that can be called'}"
            )
        made = getattr(made, part)
    if not callable(made):
        raise ConfigurationError(f"--agent {name}: {attribute!r} is {made!r}; it must be a function of one session")
    _check_signature(made, f"--agent {name}: {attribute}")
    return _calling(made, name or BUILTIN)


def _dotted(name: str) -> bool:
    return all(part.isidentifier() for part in name.split("."))


def _check_signature(made: Callable[..., Any], what: str) -> None:
    try:
        signature = inspect.signature(made)
    except (TypeError, ValueError):  # one that is written in C and doesn't say
        return
    try:
        signature.bind(SessionInfo(""))
    except TypeError as error:
        raise ConfigurationError(f"{what}{signature} can't be called with one session: {error}") from None


def _calling(made: Callable[[SessionInfo], Any], name: str) -> AgentFactory:
    async def factory(session: SessionInfo) -> VoiceAgent:
        """Raises `AgentFailed` for whatever goes wrong in the user's code, and logs it; passes our own errors on."""
        try:
            agent = made(session)
            if inspect.isawaitable(agent):
                agent = await agent
        except AntiphonError:
            raise
        except (Exception, SystemExit) as error:  # a factory that exits must not take everybody's conversation with it
            log.exception("agent %s failed for session %s", name, session.id)
            raise AgentFailed(f"the agent could not be made: {name} raised {type(error).__name__}: {error}") from error
        if not isinstance(agent, VoiceAgent):
            raise AgentFailed(f"the agent could not be made: {name} returned {type(agent).__name__}, not a VoiceAgent")
        return agent

    return factory


def _import(name: str) -> Any:
    here = os.getcwd()
    if here not in sys.path:
        sys.path.append(here)
    for package in OURS:
        _check_clash(package, Path(here))
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is not None and (name == error.name or name.startswith(f"{error.name}.")):
            raise ConfigurationError(
                f"there is no module {name!r}: looked in {here} and in the installed packages. "
                "Start from the folder of your agent file, or put it on PYTHONPATH"
            ) from None
        raise ConfigurationError(f"{name} needs the module {error.name!r}, {_why_missing(error.name)}") from error
    except (Exception, SystemExit) as error:
        log.exception("%s failed while it was imported", name)
        raise ConfigurationError(f"{name} failed while it was imported: {type(error).__name__}: {error}") from error


def _why_missing(name: str | None) -> str:
    package = (name or "").partition(".")[0]
    if package in OURS:
        return f"but `{package}` is one of Antiphon's own packages: if you have one of that name, rename it"
    return "which is not installed"


def _check_clash(package: str, folder: Path) -> None:
    """Tell of a user's package that ours hides; raise `ConfigurationError` for one that hides ours."""
    ours = (Path(__file__).parent.parent / package).resolve()
    found = importlib.util.find_spec(package)
    places = [Path(place).resolve() for place in (found and found.submodule_search_locations) or []]
    if ours not in places:
        instead = found.origin or str(places[0]) if found else "nothing"
        raise ConfigurationError(
            f"`import {package}` does not find Antiphon's own package but {instead}: "
            "rename that one, or take its folder off PYTHONPATH"
        )
    for beside in (folder / package, folder / f"{package}.py"):
        if beside.exists() and beside.resolve() != ours:
            log.warning(
                "%s has the name of one of Antiphon's own packages: `import %s` means ours. Give yours another name",
                beside,
                package,
            )


def _where(module: Any) -> str:
    return str(getattr(module, "__file__", None) or "built in")
