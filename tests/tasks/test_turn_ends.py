"""When a turn of the user has ended, what its figures count, and what the LLM is shown of a turn that came early."""

from __future__ import annotations

import asyncio

from orchestrator import AgentTask, InlineTask, ai_function
from orchestrator.events import TurnMetrics
from orchestrator.testing import Call, calls, virtual_time
from protocol.ingest import Metrics, State, Transcript
from tests.tasks.hooked import agent_of
from tests.tasks.talk import agent_with, shown


class AskName(InlineTask[str]):
    async def on_enter(self) -> None:
        self.agent.say("Your name?")

    @ai_function
    async def answer(self, name: str) -> None:
        """The name was said."""
        self.complete(name)


class Form(InlineTask[str]):
    """Asks twice, with nothing said in between."""

    async def run(self) -> None:
        self.complete(f"{await AskName(instructions='')} {await AskName(instructions='')}")


class Billing(AgentTask):
    async def on_enter(self) -> None:
        self.agent.say("Billing here.")


@ai_function
async def book() -> str:
    """Book."""
    return f"booked for {await AskName(instructions='')}"


@ai_function
async def fill_in() -> str:
    """Fill in a form."""
    return await Form(instructions="")


@ai_function
async def transfer() -> AgentTask:
    """Hand over."""
    return Billing(instructions="You are billing.")


def ends(call: Call) -> list[tuple[int, str]]:
    return [(one.turn, one.outcome) for one in call.events if isinstance(one, TurnMetrics)]


async def say(call: Call, text: str) -> None:
    """A turn in writing, until it has ended."""
    before = len(ends(call))
    call.send(text)
    await call.until(lambda: len(ends(call)) > before, what="the end of the turn")


@virtual_time
async def test_a_turn_that_leads_to_a_question_has_ended_when_that_was_asked() -> None:
    answers = calls("book"), calls("answer", name="Ann"), "It is booked."
    async with Call(agent_with(book), *answers) as call:
        await say(call, "Book.")
        await say(call, "Ann.")
        assert ends(call) == [(1, "completed"), (2, "completed")]
    said = [(one.turn, one.text) for one in call.messages if isinstance(one, Transcript) and one.final]
    # What the function's result leads to answers the turn that gave it, not the one that called the function.
    assert said == [(1, "Book."), (1, "Your name?"), (2, "Ann."), (2, "It is booked.")]
    assert all(one.audio_ms == one.heard_ms > 0 for one in call.messages if isinstance(one, Metrics))


@virtual_time
async def test_between_two_questions_no_turn_ends_without_an_answer() -> None:
    answer = calls("answer", name="Ann")
    async with Call(agent_with(fill_in), calls("fill_in"), answer, answer, "Thank you.") as call:
        for text in ("A form, please.", "Ann.", "Lee."):
            await say(call, text)
        assert ends(call) == [(1, "completed"), (2, "completed"), (3, "completed")]


@virtual_time
async def test_what_a_task_says_that_was_handed_over_to_counts_for_the_turn() -> None:
    async with Call(agent_with(transfer), calls("transfer")) as call:
        await say(call, "Billing, please.")
        assert ends(call) == [(1, "completed")]
    metrics = next(one for one in call.messages if isinstance(one, Metrics))
    last = max(at for at, one in enumerate(call.messages) if isinstance(one, Transcript))
    assert call.messages.index(metrics) > last
    assert metrics.heard_ms > 0


@virtual_time
async def test_a_new_turn_ends_the_one_before_whose_reply_was_over() -> None:
    async def talkative(task: AgentTask) -> None:
        task.agent.say("And so on. " * 50, allow_interruptions=False)

    class Talker(AgentTask):
        async def on_enter(self) -> None:
            await talkative(self)

    @ai_function
    async def tell() -> AgentTask:
        """Tell a story."""
        return Talker(instructions="")

    async with Call(agent_with(tell), calls("tell"), "Yes.") as call:
        call.send("A story.")
        await call.until(lambda: call.state == "speaking")
        assert ends(call) == []
        call.send("Really?")
        await call.until(lambda: ends(call) == [(1, "completed")])
        await call.settled()
        assert ends(call) == [(1, "completed"), (2, "completed")]


@virtual_time
async def test_a_turn_that_came_before_the_greeting_was_said_is_the_last_that_the_llm_is_shown() -> None:
    class Desk(AgentTask):
        async def on_enter(self) -> None:
            await asyncio.sleep(1.0)
            self.agent.say("Good morning.")

    async with Call(agent_of(Desk(instructions="")), "At six.") as call:
        await call.write("When do you close?")
        assert shown(call.script.requests[0])[-2:] == ["assistant: Good morning.", "user: When do you close?"]
        call.expect.user().message("Good morning.").message("At six.")  # but it is kept in the order of time


@virtual_time
async def test_an_agent_that_waits_for_an_answer_listens() -> None:
    async with Call(agent_with(book), calls("book")) as call:
        await say(call, "Book.")
        assert [one.agent for one in call.messages if isinstance(one, State)][-1] == "listening"
