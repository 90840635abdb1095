"""`on_exit`: it runs on every way to leave a task, once, shielded, within its time; what fails in it harms nobody."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest

from orchestrator import AgentTask, ConversationOver, ai_function
from orchestrator.deadline import GRACE_S
from orchestrator.testing import Call, calls, fails, hangs, says, virtual_time
from orchestrator.testing.script import Part
from protocol.ingest import Closed
from tests.tasks import hooked
from tests.tasks.hooked import Asking, End, Hooked, agent_of, hands_over, told, ways_to_end

HERE = "here"  # what a moment notes when it has come
LONG = "This is a long answer, which takes quite some time to be spoken to its very end, as you hear."


# --- the moments at which a conversation may end ----------------------------------------------------------------------


@dataclass
class Moment:
    """A first task, what the LLM says, whether the user says something, and the tasks that are left, in order."""

    task: AgentTask
    steps: list[Part]
    left: list[str]
    user_speaks: bool = True


async def here(task: Hooked) -> None:
    """A hook that is at work when the conversation ends."""
    task.noted.append(HERE)
    await asyncio.Event().wait()


def at_rest(noted: list[str]) -> Moment:
    async def enter(task: Hooked) -> None:
        noted.append(HERE)

    return Moment(Hooked(noted, enter=enter), [], ["first"], user_speaks=False)


def during_on_enter(noted: list[str]) -> Moment:
    return Moment(Hooked(noted, enter=here), [], ["first"], user_speaks=False)


def during_on_end_of_turn(noted: list[str]) -> Moment:
    return Moment(Hooked(noted, end_of_turn=here), [], ["first"])


def while_the_llm_writes(noted: list[str]) -> Moment:
    async def end_of_turn(task: Hooked) -> None:
        noted.append(HERE)

    return Moment(Hooked(noted, end_of_turn=end_of_turn), [hangs()], ["first"])


def during_a_reply_that_is_spoken(noted: list[str]) -> Moment:
    def watch(event: Any) -> None:
        if event.new == "speaking":
            noted.append(HERE)

    async def enter(task: Hooked) -> None:
        task.agent.on("agent_state_changed", watch)

    return Moment(Hooked(noted, enter=enter), [says(LONG)], ["first"])


def during_a_function(noted: list[str]) -> Moment:
    @ai_function
    async def work() -> None:
        """Work."""
        noted.append(HERE)
        await asyncio.Event().wait()

    return Moment(Hooked(noted, ai_functions=[work]), [calls("work")], ["first"])


def during_the_on_enter_of_a_handoff(noted: list[str]) -> Moment:
    first = Hooked(noted, ai_functions=[hands_over(Hooked(noted, "second", enter=here))])
    return Moment(first, [calls("transfer")], ["second", "first"])


def during_the_on_exit_of_a_handoff(noted: list[str]) -> Moment:
    first = Hooked(noted, leave=here, ai_functions=[hands_over(Hooked(noted, "second"))])
    return Moment(first, [calls("transfer")], ["first", "second"])


def during_an_inline_task(noted: list[str]) -> Moment:
    @ai_function
    async def ask() -> str:
        """Ask."""
        return await Asking(noted, "asking", enter=at_once)

    async def at_once(task: Hooked) -> None:
        noted.append(HERE)

    return Moment(Hooked(noted, ai_functions=[ask]), [calls("ask")], ["asking", "first"])


def two_inline_tasks_deep(noted: list[str]) -> Moment:
    async def ask_again(task: Hooked) -> None:
        await Asking(noted, "deeper", enter=here)

    @ai_function
    async def ask() -> str:
        """Ask."""
        return await Asking(noted, "asking", enter=ask_again)

    return Moment(Hooked(noted, ai_functions=[ask]), [calls("ask")], ["deeper", "asking", "first"])


def during_the_on_exit_of_an_inline_task(noted: list[str]) -> Moment:
    async def complete(task: Asking) -> None:
        task.complete("done")

    @ai_function
    async def ask() -> str:
        """Ask."""
        return await Asking(noted, "asking", enter=complete, leave=here)

    return Moment(Hooked(noted, ai_functions=[ask]), [calls("ask")], ["asking", "first"])


def after_a_reply_has_failed(noted: list[str]) -> Moment:
    class Broken(Hooked):
        async def llm_node(self, chat_ctx: Any, fnc_ctx: Any) -> Any:
            noted.append(HERE)
            raise RuntimeError("the node is broken")

    return Moment(Broken(noted), [], ["first"])


MOMENTS = [
    at_rest,
    during_on_enter,
    during_on_end_of_turn,
    while_the_llm_writes,
    during_a_reply_that_is_spoken,
    during_a_function,
    during_the_on_enter_of_a_handoff,
    during_the_on_exit_of_a_handoff,
    during_an_inline_task,
    two_inline_tasks_deep,
    during_the_on_exit_of_an_inline_task,
    after_a_reply_has_failed,
]


@ways_to_end
@pytest.mark.parametrize("moment", MOMENTS, ids=lambda moment: moment.__name__)
@virtual_time
async def test_on_exit_runs_once_for_every_task_the_current_one_first_whenever_the_conversation_ends(
    moment: Callable[[list[str]], Moment], end: End
) -> None:
    # on_exit: hang-up, drain, shutdown; always runs, once. The caller that vanishes is no exception.
    noted: list[str] = []
    given = moment(noted)
    async with Call(agent_of(given.task), *given.steps) as call:
        if given.user_speaks:
            call.send("Go on.")
        await call.until(lambda: HERE in noted)
        await end(call)
        assert isinstance(call.messages[-1], Closed)
        assert asyncio.all_tasks() - {asyncio.current_task(), call._sweeping} == set()
    assert [note for note in noted if note.startswith("exit")] == [f"exit {name}" for name in given.left]


# --- the ways to leave while the conversation goes on -----------------------------------------------------------------


@virtual_time
async def test_on_exit_runs_when_a_function_hands_over() -> None:
    noted: list[str] = []
    first = Hooked(noted, ai_functions=[hands_over(Hooked(noted, "second"))])
    async with Call(agent_of(first), calls("transfer")) as call:
        await call.write("Transfer me.")
        assert noted[-1] == "exit first"
    assert noted.count("exit first") == 1


@virtual_time
async def test_on_exit_runs_when_update_task_hands_over() -> None:
    noted: list[str] = []
    async with Call(agent_of(Hooked(noted))) as call:
        await call.settled()
        await call.agent.update_task(Hooked(noted, "second"))
        await call.until(lambda: noted[-1] == "exit first")
    assert noted == ["enter first", "enter second", "exit first", "exit second"]


@virtual_time
async def test_on_exit_of_an_inline_task_runs_on_completion_before_the_awaiting_code_goes_on() -> None:
    noted: list[str] = []

    @ai_function
    async def ask() -> str:
        """Ask."""
        answer = await Asking(noted, "asking", enter=complete)
        noted.append(answer)
        return answer

    async def complete(task: Asking) -> None:
        task.complete("blue")

    async with Call(agent_of(Hooked(noted, ai_functions=[ask])), calls("ask"), "Blue it is.") as call:
        await call.write("Ask me.")
    assert noted == ["enter first", "end of turn first", "enter asking", "exit asking", "blue", "exit first"]


@virtual_time
async def test_a_handoff_inside_an_inline_task_leaves_it_and_the_task_that_awaited_it_from_the_top() -> None:
    noted: list[str] = []
    asking = Asking(noted, "asking", ai_functions=[hands_over(Hooked(noted, "second"))])

    @ai_function
    async def ask() -> str:
        """Ask."""
        try:
            return await asking
        except asyncio.CancelledError:
            noted.append("the function is cancelled")
            raise

    async with Call(agent_of(Hooked(noted, ai_functions=[ask])), calls("ask"), calls("transfer")) as call:
        call.send("Ask me.")
        await call.until(lambda: "enter asking" in noted)
        call.send("Someone else, please.")
        await call.until(lambda: "exit first" in noted)
        await call.settled()
        assert sorted(noted[3:]) == sorted(
            ["end of turn asking", "enter second", "exit asking", "the function is cancelled", "exit first"]
        )
        assert noted.index("enter second") < noted.index("exit asking") < noted.index("exit first")
    assert noted[-1] == "exit second"


@virtual_time
async def test_an_error_in_a_reply_leaves_no_task_and_the_conversation_goes_on() -> None:
    noted: list[str] = []
    async with Call(agent_of(Hooked(noted)), fails_with("the model is down"), "Hello.") as call:
        await call.write("Hi.")
        assert "exit first" not in noted
        await call.write("Hi?")
        call.expect.user("Hi.").error(None, re.compile("the model is down")).user("Hi?").message("Hello.")
    assert noted[-1] == "exit first"


def fails_with(why: str) -> Part:
    """An LLM that refuses for good."""
    return fails(why, "fatal")


# --- once, shielded, within its time ----------------------------------------------------------------------------------


@virtual_time
async def test_on_exit_runs_once_however_often_and_by_whom_the_call_is_ended() -> None:
    noted: list[str] = []
    async with Call(agent_of(Hooked(noted))) as call:
        await call.settled()
        await asyncio.gather(call.shut_down(), call.lose_client(), call.hang_up(), call.hang_up())
        await call.hang_up()
    assert noted == ["enter first", "exit first"]
    assert [message.reason for message in call.messages if isinstance(message, Closed)] == [call.closed]


@ways_to_end
@virtual_time
async def test_the_conversation_is_over_only_when_on_exit_has_ended(end: End) -> None:
    async def clean_up(task: Hooked) -> None:
        await asyncio.sleep(3)
        task.noted.append("cleaned up")
        assert not any(isinstance(message, Closed) for message in call.messages)

    noted: list[str] = []
    async with Call(agent_of(Hooked(noted, leave=clean_up))) as call:
        await call.settled()
        await end(call)
        assert isinstance(call.messages[-1], Closed)
    assert noted == ["enter first", "exit first", "cleaned up"]


@ways_to_end
@virtual_time
async def test_an_on_exit_that_runs_already_is_finished_when_the_conversation_ends(end: End) -> None:
    # Shielded from cancellation: it was begun by a handoff, whose function is cancelled by the end.
    async def clean_up(task: Hooked) -> None:
        await asyncio.sleep(3)
        noted.append("cleaned up")

    noted: list[str] = []
    first = Hooked(noted, leave=clean_up, ai_functions=[hands_over(Hooked(noted, "second"))])
    async with Call(agent_of(first), calls("transfer")) as call:
        call.send("Transfer me.")
        await call.until(lambda: "exit first" in noted)
        await end(call)
    assert noted[-3:] == ["exit first", "exit second", "cleaned up"]
    assert noted.count("cleaned up") == 1


@virtual_time
async def test_cancelling_the_code_that_awaits_an_inline_task_lets_its_on_exit_finish() -> None:
    noted: list[str] = []

    async def clean_up(task: Hooked) -> None:
        await asyncio.sleep(1)
        noted.append("cleaned up")

    @ai_function(timeout=60)
    async def ask() -> str:
        """Ask, but not for long."""
        waiting = asyncio.ensure_future(wait())
        await asyncio.sleep(2)
        waiting.cancel()
        await asyncio.sleep(0.5)
        waiting.cancel()  # in the middle of its on_exit
        await asyncio.wait({waiting})
        noted.append("given up")
        return "no answer"

    async def wait() -> str:
        return await Asking(noted, "asking", leave=clean_up)

    async with Call(agent_of(Hooked(noted, ai_functions=[ask])), calls("ask"), "Never mind.") as call:
        call.send("Ask me.")
        await call.until(lambda: "given up" in noted)
        await call.settled()
    assert noted[2:] == ["enter asking", "exit asking", "cleaned up", "given up", "exit first"]


@ways_to_end
@virtual_time
async def test_an_on_exit_that_fails_is_logged_and_the_others_run_all_the_same(
    end: End, caplog: pytest.LogCaptureFixture
) -> None:
    noted: list[str] = []

    @ai_function
    async def ask() -> str:
        """Ask."""
        return await Asking(noted, "asking", leave=hooked.fails)

    async with Call(agent_of(Hooked(noted, ai_functions=[ask], leave=hooked.fails)), calls("ask")) as call:
        call.send("Ask me.")
        await call.until(lambda: "enter asking" in noted)
        await end(call)
        assert told(call) == []
    assert noted[-2:] == ["exit asking", "exit first"]
    assert "on_exit of Asking raised ValueError: the hook is broken" in caplog.text
    assert "on_exit of Hooked raised ValueError: the hook is broken" in caplog.text
    assert "Traceback" in caplog.text


@virtual_time
async def test_an_on_exit_that_fails_or_hangs_does_not_stop_a_handoff(caplog: pytest.LogCaptureFixture) -> None:
    # Logged; leaving goes on.
    noted: list[str] = []
    third = Hooked(noted, "third")
    second = Hooked(noted, "second", leave=hooked.hangs, ai_functions=[hands_over(third)])
    first = Hooked(noted, leave=hooked.fails, ai_functions=[hands_over(second)])
    async with Call(agent_of(first), calls("transfer"), calls("transfer"), "Third here.") as call:
        await call.write("Transfer me.")
        await call.write("Again.")
        await call.write("Hi.")
        assert call.transcript[-1] == ("agent", "Third here.")
        await call.until(lambda: "took longer than 5 s" in caplog.text)
    assert "on_exit of Hooked raised ValueError" in caplog.text
    assert noted[-2:] == ["end of turn third", "exit third"]


@ways_to_end
@virtual_time
async def test_an_on_exit_that_hangs_is_stopped_when_its_time_is_over_and_logged(
    end: End, caplog: pytest.LogCaptureFixture
) -> None:
    noted: list[str] = []

    async def hang(task: Hooked) -> None:
        try:
            await hooked.hangs(task)
        except asyncio.CancelledError:
            noted.append("stopped")
            raise

    async with Call(agent_of(Hooked(noted, leave=hang), hook_timeout=2)) as call:
        await call.settled()
        began = asyncio.get_running_loop().time()
        await end(call)
        assert asyncio.get_running_loop().time() - began == pytest.approx(2 + GRACE_S, abs=0.1)
    assert noted == ["enter first", "exit first", "stopped"]
    assert "on_exit of Hooked took longer than 2 s" in caplog.text


@virtual_time
async def test_hooks_that_hang_on_every_level_keep_a_conversation_from_ending_for_seconds_not_for_minutes() -> None:
    noted: list[str] = []

    async def ask(task: Hooked) -> None:
        if (depth := noted.count("enter asking")) < 5:
            await Asking(noted, "asking", enter=ask, leave=hooked.hangs)
        noted.append(f"depth {depth}")

    async with Call(agent_of(Hooked(noted, enter=ask, leave=hooked.hangs))) as call:
        await call.until(lambda: "depth 5" in noted)
        began = asyncio.get_running_loop().time()
        await call.hang_up()
        assert asyncio.get_running_loop().time() - began < 20
    assert noted.count("exit asking") == 5
    assert noted[-1] == "exit first"


@virtual_time
async def test_an_inline_task_awaited_in_on_exit_while_the_conversation_ends_is_refused_at_once() -> None:
    noted: list[str] = []

    async def ask(task: Hooked) -> None:
        with pytest.raises(ConversationOver, match="the conversation is ending"):
            await Asking(noted, "asking")
        noted.append("refused")

    async with Call(agent_of(Hooked(noted, leave=ask))) as call:
        await call.settled()
    assert noted == ["enter first", "exit first", "refused"]
