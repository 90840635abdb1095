"""What a pipeline node gave, as a stream: an override may be an async generator, or a coroutine with its value."""

from __future__ import annotations

import inspect
from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Any, cast


async def stream(output: Any, types: tuple[type[Any], ...], where: str) -> AsyncIterator[Any]:
    """The values of a node's output, one after the other. `where` names the node: "llm_node of Booking".

    Raises TypeError for a value that is none of `types`. Closes what it reads when it is closed.
    """
    if inspect.isawaitable(output):
        output = await output
    if output is None:
        return
    if isinstance(output, types):
        yield output
        return
    if not hasattr(output, "__aiter__"):
        raise TypeError(
            f"{where} gave {type(output).__name__}; it must give {_names(types)}, or an async iterable of it"
        )
    if not hasattr(output, "aclose"):
        async for value in output:
            yield _checked(value, types, where)
        return
    async with aclosing(cast(Any, output)) as values:
        async for value in values:
            yield _checked(value, types, where)


def _checked(value: Any, types: tuple[type[Any], ...], where: str) -> Any:
    if not isinstance(value, types):
        raise TypeError(f"{where} yielded {type(value).__name__}; it must yield {_names(types)}")
    return value


def _names(types: tuple[type[Any], ...]) -> str:
    return " or ".join(one.__name__ for one in types)
