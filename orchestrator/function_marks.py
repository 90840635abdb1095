"""`@ai_function`: notes on a function that the LLM may call it, and what is to be known of it.

Knows nothing of instances that methods are bound to, but for the class that they were written in.
"""

from __future__ import annotations

import inspect
import re
import types
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypeVar, overload

from orchestrator.function_schema import Parameters, located, read_parameters

F = TypeVar("F", bound=Callable[..., Any])

_MARK = "__antiphon_ai_function__"
_NAME = re.compile(r"[a-zA-Z0-9_-]{1,64}")  # what the common LLMs take


@overload
def ai_function(function: F, /) -> F: ...


@overload
def ai_function(
    *, name: str | None = None, description: str | None = None, timeout: float | None = None
) -> Callable[[F], F]: ...


def ai_function(
    function: F | None = None,
    /,
    *,
    name: str | None = None,
    description: str | None = None,
    timeout: float | None = None,
) -> F | Callable[[F], F]:
    """Let the LLM call a method of a task, or a function that is given as `ai_functions=[…]`. It stays what it was.

    `name` and `description` are what the LLM is told; else the function's own name, and its docstring, whose `Args:`
    (Google, numpy or reST style) describe the parameters. `timeout`: seconds; None: the agent's. An `async def` runs
    on the event loop; a plain `def` runs in a thread, and so may not touch the agent. Annotations are looked at when
    the task is made, not here. Raises TypeError for what is not a function, ValueError for a name or a timeout that
    cannot be.
    """
    if function is not None:
        return _marked(function, name, description, timeout)
    return lambda function: _marked(function, name, description, timeout)


@dataclass(slots=True, eq=False)
class Definition:
    """What `@ai_function` notes on a function. Keeps what was read of it: tasks are made for each conversation."""

    function: Callable[..., Any]
    name: str
    description: str | None
    timeout: float | None
    _read: dict[bool, Parameters] = field(default_factory=dict)

    def parameters(self, target: Callable[..., Any], context: type) -> Parameters:
        """Those of `target`, by which it is called: a method's are without `self`. `context`: the type to fill in."""
        bound = inspect.ismethod(target)
        if bound not in self._read:
            owner = _owner(self.function, target)
            self._read[bound] = read_parameters(self.function, bound=bound, owner=owner, context=context)
        return self._read[bound]


def definition_of(value: object) -> Definition | None:
    """What was noted on a function; seen through a method, and through a decorator that uses functools.wraps."""
    inner = value.__func__ if isinstance(value, staticmethod | classmethod | types.MethodType) else value
    definition = getattr(inner, "__dict__", {}).get(_MARK)
    return definition if isinstance(definition, Definition) else None


def _marked(function: F, name: str | None, description: str | None, timeout: float | None) -> F:
    if not inspect.isfunction(function):
        raise TypeError(
            "@ai_function goes right above a def, below @staticmethod or @classmethod, or takes name=, description= "
            f"and timeout=; not {function!r}"
        )
    where = located(function)
    before = definition_of(function)
    if before is not None and before.function is function:
        raise TypeError(f"{where} is an AI function already: write another def for a second one")
    if inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
        raise TypeError(f"{where} yields: an AI function returns one value")
    name = function.__name__ if name is None else name
    if not _NAME.fullmatch(name):
        raise ValueError(
            f"{where}: an LLM cannot call a function {name!r}: its name may have 1 to 64 of a-z, A-Z, 0-9, _ and -. "
            "Give it one with @ai_function(name=…)"
        )
    if timeout is not None and not timeout > 0:
        raise ValueError(f"{where}: timeout={timeout!r}; it must be more than 0 seconds, or None for the agent's")
    setattr(function, _MARK, Definition(function, name, description, timeout))
    return function


def _owner(function: Callable[..., Any], target: Callable[..., Any]) -> type | None:
    """The class in whose body a method was written."""
    instance = getattr(target, "__self__", None)
    cls = instance if isinstance(instance, type) else type(instance)
    inside = function.__qualname__.rpartition(".")[0]
    return next(
        (each for each in cls.__mro__ if (each.__qualname__, each.__module__) == (inside, function.__module__)), None
    )
