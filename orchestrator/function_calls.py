"""The function calls of one LLM step: run all at once, each within its time, and what each gave."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from orchestrator.chat import FunctionCall, FunctionOutput
from orchestrator.deadline import Deadline
from orchestrator.frame import Frame
from orchestrator.functions import AIError, AIFunction, CallContext, FunctionContext, encode_output
from orchestrator.inline import InlineTask
from orchestrator.speech_handle import SpeechHandle
from orchestrator.task import AgentTask
from orchestrator.user_code import CodeKind, UserCode, running_code

log = logging.getLogger(__name__)

INTERNAL = "an internal error occurred; the function has failed"


@dataclass(slots=True)
class Result:
    """What one call gave. `silent`: the function returned nothing, and nothing is to be said about it."""

    call: FunctionCall
    output: str = ""
    is_error: bool = False
    handoff: AgentTask | None = None
    silent: bool = False

    def fail(self, message: str) -> None:
        """It did not do what it was to do: the LLM is told this."""
        self.output, self.is_error, self.handoff, self.silent = message, True, None, False


class FunctionCalls:
    """Runs the calls of a task's replies."""

    def __init__(
        self, frame: Frame, handle: SpeechHandle, *, timeout: float | None, end_code: Callable[[UserCode], None]
    ) -> None:
        self._frame = frame
        self._handle = handle
        self._timeout = timeout
        self._end_code = end_code
        self.results: list[Result] = []

    async def run(self, calls: Sequence[FunctionCall], functions: FunctionContext) -> list[Result]:
        """All at once; the results in the order of the calls. Raises nothing.

        Cancelling cancels the functions; what they gave until then is in `results`.
        """
        running = [asyncio.create_task(self._run(call, functions), name=call.name) for call in calls]
        try:
            await asyncio.wait(running)
        except asyncio.CancelledError:
            for task in running:
                task.cancel()
            await asyncio.wait(running)
            raise
        finally:
            self.results = [self._result(task, call) for task, call in zip(running, calls, strict=True)]
            _keep_first_handoff(self.results)
        return self.results

    def _result(self, task: asyncio.Task[Result], call: FunctionCall) -> Result:
        if not task.cancelled():
            return task.result()
        return Result(call, "it was cancelled: the conversation went on without it", True)

    async def _run(self, call: FunctionCall, functions: FunctionContext) -> Result:
        result = Result(call)
        if call.name not in functions:
            offered = ", ".join(function.name for function in functions) or "none"
            result.fail(f"there is no function {call.name!r}; there are: {offered}")
            return result
        with self._frame.working():
            await self._invoke(functions[call.name], result)
        return result

    async def _invoke(self, function: AIFunction, result: Result) -> None:
        task = self._frame.task
        timeout = function.timeout if function.timeout is not None else self._timeout
        what = f"the function {function.name} of {type(task).__name__}"
        deadline = Deadline(timeout, what)
        kind: CodeKind = "function" if function.is_async else "sync function"
        code = UserCode(kind, what, self._frame, deadline, self._handle)
        context = CallContext(task.agent, task, result.call, self._handle)
        running_code.set(code)  # this asyncio task runs nothing else
        try:
            arguments = function.parse(result.call.arguments)
            _take(result, await deadline.run(function.invoke(context, arguments)), what)
        except AIError as error:
            result.fail(str(error))
        except TimeoutError:
            if not deadline.expired:  # its own
                log.exception("%s failed", what)
                result.fail(INTERNAL)
            else:
                log.error("%s was cancelled: it took longer than %g s", what, timeout)
                result.fail(f"it took longer than {timeout:g} s and was cancelled")
        except Exception:
            log.exception("%s failed", what)
            result.fail(INTERNAL)
        finally:
            self._end_code(code)


def _take(result: Result, value: Any, what: str) -> None:
    """What a function returned. Raises TypeError for what can't be told to an LLM."""
    if isinstance(value, tuple) and any(isinstance(part, AgentTask) for part in value):
        tasks = [part for part in value if isinstance(part, AgentTask)]
        texts = [part for part in value if isinstance(part, str)]
        if len(tasks) != 1 or len(texts) != 1 or len(value) != 2:
            raise TypeError(f"{what} returned {value!r}: a handoff is a task, or a task and a message")
        result.handoff, result.output = tasks[0], texts[0]
    elif isinstance(value, AgentTask):
        result.handoff = value
    else:
        result.output, result.silent = encode_output(value), value is None
    if isinstance(result.handoff, InlineTask):
        name = type(result.handoff).__name__
        result.handoff = None
        raise RuntimeError(f"{what} returned the InlineTask {name}: an async function awaits it, `await {name}(…)`")


def _keep_first_handoff(results: Sequence[Result]) -> None:
    first: Result | None = None
    for result in results:
        if result.handoff is None:
            continue
        if first is None:
            first = result
        else:
            result.fail(f"not done: {first.call.name} has handed over to {type(first.handoff).__name__} already")


def to_output(result: Result, at: float) -> FunctionOutput:
    """The result as an item of the chat context; `at`: seconds since the epoch."""
    return FunctionOutput(result.call.call_id, result.call.name, result.output, result.is_error, created_at=at)
