"""InlineTask: an AgentTask that ends with a result, for which a hook or a function waits."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Generator
from typing import Any, Generic, TypeVar

from orchestrator.functions import AIError
from orchestrator.task import AgentTask
from orchestrator.user_code import running_code

T = TypeVar("T")


class InlineTask(AgentTask, Generic[T]):
    """`result = await MyTask(…)`: while it is awaited it is the current task, until `complete()` is called.

    May be awaited once, in an async `@ai_function`, a hook, or the `run()` of another one. The code that waits is
    paused: its time limit stands still, and its task's hooks are not run again. What was said becomes part of the
    earlier task's chat context.
    """

    def _prepare(self) -> None:
        self._over = asyncio.Event()
        self._awaited = False
        self._result: T | None = None
        self._error: BaseException | None = None
        self._completed_by_run = False
        self._thread = threading.get_ident()

    async def run(self) -> None:
        """Runs beside the conversation, from when `on_enter` has ended until the task is over. May call `complete()`.

        Returning does not end the task; raising does, with that exception. It is cancelled when the task is over, and
        may go on for half a minute if it has called `complete()` itself.
        """

    def complete(self, result: T | AIError) -> None:
        """End the task: the `await` returns `result`, or raises it if it is an `AIError`.

        Raises RuntimeError when the task is complete already, is not running, or from an `@ai_function` that is not
        async.
        """
        name = type(self).__name__
        code = running_code.get()
        if threading.get_ident() != self._thread or (code is not None and code.kind == "sync function"):
            raise RuntimeError(f"{name}.complete() was called from a function that is not async: write `async def`")
        if self._over.is_set():
            raise RuntimeError(f"{name} is complete already")
        if self._frame is None:
            raise RuntimeError(f"{name} is not running: complete() is called while the task is awaited")
        if isinstance(result, AIError):
            self._error = result
        else:
            self._result = result
        self._completed_by_run = code is not None and code.kind == "run" and code.frame is self._frame
        self._end()

    def __await__(self) -> Generator[Any, None, T]:
        return self._await().__await__()

    async def _await(self) -> T:
        name = type(self).__name__
        self._state()
        code = running_code.get()
        if self._awaited:
            raise RuntimeError(f"{name} was awaited already: make a new one for each await")
        if code is None or code.kind == "sync function":
            where = "here" if code is None else f"in {code.what}"
            raise RuntimeError(
                f"{name} can't be awaited {where}: await it in an async @ai_function, in a hook, or in the run() of "
                "another InlineTask"
            )
        if code.ended:
            raise RuntimeError(f"{name} can't be awaited here: {code.what} has ended already")
        self._awaited = True
        agent = code.frame.task.agent
        await agent._running().run_inline(self, code)
        return self._outcome()

    def _fail(self, error: BaseException) -> bool:
        """`run()` has raised. False: the task was over."""
        if self._over.is_set():
            return False
        self._error = error
        self._end()
        return True

    def _end(self) -> None:
        self._over.set()
        if self._frame is not None and self._frame.going:
            self._frame.state = "leaving"  # here and now: what the caller says from now on is for the earlier task

    def _outcome(self) -> T:
        if self._error is not None:
            raise self._error
        return self._result  # type: ignore[return-value]  # set by complete(), or there is an error
