"""From `my_agent.py` or `module:factory` to the agent of each conversation: finds the user's function, calls it, and
tells what failed.

A module is imported by its name, a file under the stem of its own. The working directory, or the file's folder, is last
on the path: a folder named like one of our packages beside it can then not take the place of ours. What it would have
meant is said instead.
"""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import logging
import os
import sys
import traceback
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from importlib.machinery import PathFinder
from pathlib import Path
from types import ModuleType
from typing import Any

from orchestrator.agent import VoiceAgent
from protocol.errors import AntiphonError, ConfigurationError

log = logging.getLogger(__name__)

BUILTIN = "orchestrator.builtin:agent"
DEFAULT_FACTORY = "agent"  # what a function is called that need not be named
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


@dataclass(frozen=True, slots=True)
class AgentName:
    """What `--agent` names. `file` None: the module is found by its name. `factory` "": whichever function fits."""

    module: str
    factory: str
    file: Path | None = None

    @classmethod
    def parse(cls, name: str) -> AgentName:
        """Take `FILE.py[:FACTORY]` or `MODULE[:FACTORY]` apart. A file is taken from the working directory.

        Raises `ConfigurationError` for a name of another form; whether there is such a thing is not looked at.
        """
        source, colon, factory = (name, "", "") if name.endswith(".py") or ":" not in name else name.rpartition(":")
        if _dotted(factory) if colon else source:
            if source.endswith(".py") or (not _dotted(source) and (os.sep in source or os.path.isdir(source))):
                file = Path(os.path.abspath(Path(source).expanduser()))
                return cls(file.stem, factory, file)
            if _dotted(source):
                return cls(source, factory)
        raise ConfigurationError(
            f"--agent {name!r} is neither FILE.py[:FACTORY] nor MODULE[:FACTORY], as in my_agent.py or my_agent:agent "
            "for the function `agent` in my_agent.py"
        )

    def __str__(self) -> str:
        """The same for every working directory, if it is a file."""
        return f"{self.file or self.module}{':' if self.factory else ''}{self.factory}"

    def find(self) -> Path | None:
        """The file or folder (of a package) that would be imported; None for what is no file. Imports nothing.

        Raises `ConfigurationError` when it is not there, or can't be what is meant. Of a module in a package only the
        outermost package is looked for.
        """
        if self.file is not None:
            _check_file(self.file)
            return self.file
        outermost = self.module.partition(".")[0]
        try:
            spec = importlib.util.find_spec(outermost)
        except ValueError:  # a module without a spec, as __main__ is
            spec = None
        spec = spec or PathFinder.find_spec(outermost, [os.getcwd()])
        if spec is None:
            raise ConfigurationError(_no_module(self.module))
        if spec.submodule_search_locations:
            return Path(next(iter(spec.submodule_search_locations)))
        return Path(spec.origin) if spec.origin and spec.has_location else None


def load_factory(name: str | None) -> AgentFactory:
    """The function that makes agents, from `FILE.py[:FACTORY]` or `MODULE[:FACTORY]`; None: the built-in agent.

    Without FACTORY it is `agent`, or the only function there that is annotated to return a VoiceAgent or, if none is,
    has "agent" in its name. Raises `ConfigurationError` that names what is wrong: the form of the name, a module or
    file that is not found or fails while it is imported, a function that is missing or can't be called with one
    session.
    """
    parsed = AgentName.parse(name or BUILTIN)
    module = _import(parsed)
    factory = parsed.factory or _fitting(module, parsed)
    made: Any = module
    for part in factory.split("."):
        if not hasattr(made, part):
            defined = sorted(key for key, value in vars(module).items() if callable(value) and not key.startswith("_"))
            raise ConfigurationError(
                f"--agent {name}: module {parsed.module!r} ({_where(module)}) has no {factory!r}; "
                f"it has {', '.join(defined) or 'nothing that can be called'}"
            )
        made = getattr(made, part)
    if not callable(made):
        raise ConfigurationError(f"--agent {name}: {factory!r} is {made!r}; it must be a function of one session")
    _check_signature(made, f"--agent {name}: {factory}")
    return _calling(made, name or BUILTIN)


def _dotted(name: str) -> bool:
    return all(part.isidentifier() for part in name.split("."))


def _check_file(file: Path) -> None:
    if file.is_dir():
        raise ConfigurationError(f"{file} is a folder; name the Python file in it, as in {file / 'my_agent.py'}")
    if file.suffix != ".py":
        meant = file.with_name(f"{file.name}.py")
        hint = f". Did you mean {meant}?" if meant.is_file() else ", for its name doesn't end in .py"
        raise ConfigurationError(f"{file} is no Python file{hint}")
    if not file.is_file():
        raise ConfigurationError(f"there is no file {file}")


def _fitting(module: ModuleType, name: AgentName) -> str:
    """The function that is meant when none is named."""
    if hasattr(module, DEFAULT_FACTORY):
        return DEFAULT_FACTORY
    own = {
        key: value
        for key, value in vars(module).items()
        if inspect.isfunction(value) and value.__module__ == module.__name__ and not key.startswith("_")
    }
    found = [key for key, value in own.items() if _makes_agents(value)]
    found = found or [key for key in own if DEFAULT_FACTORY in key.lower()]
    if len(found) == 1:
        log.info("%s has no function `agent`; its function `%s` makes the agents", name, found[0])
        return found[0]
    if found:
        raise ConfigurationError(
            f"{name} has several functions that may make the agent: {', '.join(found)}. "
            f"Name the one that is meant, as in {name}:{found[0]}"
        )
    raise ConfigurationError(
        f"{name} has no function that makes an agent; it has {', '.join(own) or 'no functions'}. "
        "Write one, as in: def agent(session: SessionInfo) -> VoiceAgent"
    )


def _makes_agents(function: Callable[..., Any]) -> bool:
    made = getattr(function, "__annotations__", {}).get("return")
    if isinstance(made, str):  # as it was written, with `from __future__ import annotations`
        return made.strip("\"'").rpartition(".")[2] == VoiceAgent.__name__
    return isinstance(made, type) and issubclass(made, VoiceAgent)


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


def _import(name: AgentName) -> ModuleType:
    folder = name.file.parent if name.file is not None else Path.cwd()
    if name.file is not None:
        _check_file(name.file)
        _check_stem(name.file)
    if str(folder) not in sys.path:
        sys.path.append(str(folder))
    for package in OURS:
        _check_clash(package, folder)
    try:
        return importlib.import_module(name.module) if name.file is None else _import_file(name.file)
    except ModuleNotFoundError as error:
        missing = error.name or ""
        if name.file is None and (name.module == missing or name.module.startswith(f"{missing}.")):
            raise ConfigurationError(_no_module(name.module)) from None
        raise ConfigurationError(f"{name.module} needs the module {missing!r}, {_why_missing(missing)}") from error
    except (Exception, SystemExit) as error:
        log.exception("%s failed while it was imported", name.module)
        said = error.msg if isinstance(error, SyntaxError) else error
        raise ConfigurationError(
            f"{name.module} failed while it was imported: {type(error).__name__}: {said}{_place(error, folder)}"
        ) from error


def _import_file(file: Path) -> ModuleType:
    """As `import` would, but by its path. Its module is known by its stem, as dataclasses and pickle expect."""
    known = sys.modules.get(file.stem)
    if known is not None:
        return known
    spec = importlib.util.spec_from_file_location(file.stem, file)
    if spec is None or spec.loader is None:
        raise ImportError(f"{file} can't be imported")
    module = importlib.util.module_from_spec(spec)
    sys.modules[file.stem] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[file.stem]
        raise
    return module


def _check_stem(file: Path) -> None:
    """Raise `ConfigurationError` for a file that would take the place of another module of its name."""
    known = sys.modules.get(file.stem)
    if known is not None and os.path.realpath(_where(known)) == os.path.realpath(file):
        return
    if file.stem in OURS:
        other = "one of Antiphon's own packages"
    elif known is not None or file.stem in sys.stdlib_module_names:
        other = "a module of Python's own" if file.stem in sys.stdlib_module_names else f"the module at {_where(known)}"
    else:
        return
    raise ConfigurationError(f"{file} has the name of {other}, and would take its place: rename your file")


def _place(error: BaseException, folder: Path) -> str:
    """Where it happened in the user's code, to be put after the message; empty when it wasn't there."""
    if isinstance(error, SyntaxError) and error.filename:
        return f" ({error.filename}:{error.lineno})"
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        path = Path(frame.filename)
        if path.is_relative_to(folder) and "site-packages" not in path.parts and not _is_ours(path):
            return f" ({path}:{frame.lineno})"
    return ""


def _is_ours(path: Path) -> bool:
    return any(path.is_relative_to(Path(__file__).parent.parent / package) for package in OURS)


def _no_module(name: str) -> str:
    return (
        f"there is no module {name!r}: looked in {os.getcwd()} and in the installed packages. "
        "Start from the folder of your agent file, or put it on PYTHONPATH"
    )


def _why_missing(name: str) -> str:
    package = name.partition(".")[0]
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
