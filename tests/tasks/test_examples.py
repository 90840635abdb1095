"""Each example does what it says it does, in virtual time: a scripted LLM, simulated nodes, the example as it is."""

from __future__ import annotations

import asyncio
import logging
import sqlite3
from contextlib import asynccontextmanager, closing
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from orchestrator import AudioFrame
from orchestrator.factory import load_factory
from orchestrator.testing import Call, calls, says, step, virtual_time
from protocol.ingest import Transcript
from tests.shipped_examples import FOLDER, NAMES, load
from tests.tasks.talk import offered, shown

MONDAY = FOLDER / "audio" / "06-awb-appointment.wav"


def test_there_are_the_examples_that_the_readme_names() -> None:
    readme = (FOLDER / "README.md").read_text()
    assert set(NAMES) == {"echo", "handoff", "collect_order", "booking", "hooks", "pipeline"}
    assert all(f"antiphon run examples/{name}.py" in readme for name in NAMES)


@pytest.mark.parametrize("name", NAMES)
@virtual_time
async def test_each_example_is_found_by_its_file_and_makes_an_agent_that_can_be_called(name: str) -> None:
    async with Call(load_factory(str(FOLDER / f"{name}.py"))) as call:
        await call.settled()


# --- echo -------------------------------------------------------------------------------------------------------------


@virtual_time
async def test_echo_repeats_what_it_was_told_and_needs_no_llm() -> None:
    async with Call(load("echo").agent) as call:
        await call.write("Hello there.")
        call.expect.user("Hello there.").message("You said: Hello there.").nothing_more()
        assert "llm" not in [opening.spec.service for opening in call.nodes.openings]


# --- handoff ----------------------------------------------------------------------------------------------------------


@virtual_time
async def test_alloy_and_echo_hand_over_to_one_another_each_with_its_own_voice() -> None:
    steps = calls("talk_to_echo"), "Hello to you.", calls("talk_to_alloy")
    async with Call(load("handoff").agent, *steps) as call:
        await call.settled()
        for text in ("Echo, please.", "Hello.", "Back to Alloy."):
            await call.write(text)
        call.expect.message("This is Alloy.").user().function_call("talk_to_echo").function_output()
        call.expect.handoff("EchoTask").message("I am transferring you to Echo.").message("This is Echo.")
        call.expect.user("Hello.").message("Hello to you.").user().function_call("talk_to_alloy").function_output()
        call.expect.handoff("AlloyTask").message("I am transferring you to Alloy.").message("This is Alloy.")
        call.expect.nothing_more()
        voices = [
            opening.spec.options.get("voice", "") for opening in call.nodes.openings if opening.spec.service == "tts"
        ]
        assert any("f2" in voice for voice in voices)
        assert any("m3" in voice for voice in voices)


@virtual_time
async def test_echo_knows_what_was_said_to_alloy() -> None:
    async with Call(load("handoff").agent, calls("talk_to_echo"), "Hello.") as call:
        for text in ("Echo, please.", "Hello."):
            await call.settled()
            await call.write(text)
        assert "assistant: This is Alloy." in shown(call.script.requests[1])
        assert offered(call.script.requests[1]) == ["talk_to_alloy"]


@virtual_time
async def test_the_hooks_of_handoff_tell_the_order_in_which_they_run(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "example_handoff")
    async with Call(load("handoff").agent, calls("talk_to_echo")) as call:
        await call.settled()
        await call.write("Echo, please.")
    told = [" ".join(message.split(":")[0].split()) for message in caplog.messages if " of " in message]
    hooks = [message for message in told if message.startswith("on_")]
    # enter the new one, then leave the old one; the last one is left when the caller hangs up
    assert hooks == [
        "on_enter of Alloy", "on_end_of_turn of Alloy", "on_enter of Echo", "on_exit of Alloy", "on_exit of Echo",
    ]  # fmt: skip


# --- collect_order ----------------------------------------------------------------------------------------------------

ORDER = calls("take_order")
TEA = calls("choose_drink", drink="tea")
SMALL = calls("choose_size", size="small")


@virtual_time
async def test_an_order_is_collected_by_nested_tasks_and_told_to_the_llm_as_a_whole() -> None:
    steps = ORDER, TEA, SMALL, calls("confirm_order", correct=True), "Your tea is coming."
    async with Call(load("collect_order").agent, *steps) as call:
        await call.settled()
        for text in ("I would like to order.", "Tea.", "Small.", "Yes."):
            await call.write(text)
        assert call.agent.current_task.__class__.__name__ == "Barista"
        assert [text for speaker, text in call.transcript if speaker == "agent"] == [
            "Welcome to the coffee bar.", "What would you like: espresso, cappuccino or tea?",
            "Which size of tea: small, medium or large?", "One small tea. Is the order correct?", "Your tea is coming.",
        ]  # fmt: skip
        assert shown(call.script.requests[-1])[-1].endswith("Your small tea will be ready in five minutes.")


@virtual_time
async def test_while_a_question_is_asked_only_its_own_functions_are_offered() -> None:
    async with Call(load("collect_order").agent, ORDER, TEA, SMALL, calls("cancel_order"), "All right.") as call:
        await call.settled()
        for text in ("I would like to order.", "Tea.", "Small.", "Cancel."):
            await call.write(text)
        questions = ["choose_drink", "choose_size", "confirm_order"]
        asked = [set(offered(request)) for request in call.script.requests]
        assert asked == [{"take_order"}, *({"cancel_order", one} for one in questions), {"take_order"}]


@virtual_time
async def test_an_order_that_is_not_correct_is_begun_again() -> None:
    wrong, right = calls("confirm_order", correct=False), calls("confirm_order", correct=True)
    coffee, large = calls("choose_drink", drink="espresso"), calls("choose_size", size="large")
    async with Call(load("collect_order").agent, ORDER, TEA, SMALL, wrong, coffee, large, right, "Coming.") as call:
        await call.settled()
        for text in ("I would like to order.", "Tea.", "Small.", "No.", "Espresso.", "Large.", "Yes."):
            await call.write(text)
        assert (
            "agent",
            "Then let us begin again. What would you like: espresso, cappuccino or tea?",
        ) not in call.transcript
        assert ("agent", "Then let us begin again.") in call.transcript
        assert shown(call.script.requests[-1])[-1].endswith("Your large espresso will be ready in five minutes.")


@pytest.mark.parametrize("answers", [[], [TEA], [TEA, SMALL]], ids=["drink", "size", "confirmation"])
@virtual_time
async def test_an_order_may_be_cancelled_at_each_question(answers: list[Any]) -> None:
    async with Call(load("collect_order").agent, ORDER, *answers, calls("cancel_order"), "As you wish.") as call:
        await call.settled()
        for text in ("I would like to order.", *("That one." for _ in answers), "Cancel the order."):
            await call.write(text)
        assert call.agent.current_task.__class__.__name__ == "Barista"
        call.expect.skip(len(call.happened) - 2).function_output("the order was cancelled", is_error=True)
        call.expect.message("As you wish.")


@virtual_time
async def test_a_drink_that_there_is_not_never_reaches_the_function() -> None:
    steps = ORDER, calls("choose_drink", drink="beer"), "There is no beer."
    async with Call(load("collect_order").agent, *steps) as call:
        await call.settled()
        for text in ("I would like to order.", "A beer."):
            await call.write(text)
        assert call.agent.current_task.__class__.__name__ == "AskDrink"


# --- booking ----------------------------------------------------------------------------------------------------------


@virtual_time
async def test_functions_of_one_step_run_side_by_side_and_answer_in_the_order_of_their_calls() -> None:
    both = step(calls("find_table", people=2, day="Friday"), calls("read_menu", day="Friday"))
    async with Call(load("booking").agent, both, "There is a table, and trout.") as call:
        await call.settled()
        await call.write("What is on the menu on Friday, and is there a table for two?")
        call.expect.skip(3).function_call("find_table").function_call("read_menu")
        call.expect.function_output("There is a table for 2 on Friday at six.")
        call.expect.function_output("On Friday there is grilled trout.")


@virtual_time
async def test_the_caller_hears_something_while_the_slow_function_works() -> None:
    booking = load("booking")
    async with Call(booking.agent, calls("find_table", people=4, day="Sunday"), "At half past seven.") as call:
        await call.settled()
        began = asyncio.get_running_loop().time()
        call.send("A table for four on Sunday.")
        await call.until(lambda: any("One moment" in text for _, text in call.transcript))
        assert asyncio.get_running_loop().time() - began < booking.SLOW_S
        await call.settled()
        assert asyncio.get_running_loop().time() - began >= booking.SLOW_S
        assert call.transcript[-1] == ("agent", "At half past seven.")


@virtual_time
async def test_two_slow_searches_take_no_longer_than_one() -> None:
    booking = load("booking")
    searches = [calls("find_table", people=2, day=day) for day in ("Monday", "Friday")]
    async with Call(booking.agent, step(*searches, calls("count_tables")), "There are many.") as call:
        await call.settled()
        began = asyncio.get_running_loop().time()
        call.send("Monday or Friday?")
        await call.until(lambda: len(call.script.requests) == 2)
        assert asyncio.get_running_loop().time() - began < 2 * booking.SLOW_S


@virtual_time
async def test_what_cannot_be_done_is_told_to_the_llm_in_words() -> None:
    async with Call(load("booking").agent, calls("find_table", people=12, day="Monday"), "We have none.") as call:
        await call.settled()
        await call.write("A table for twelve on Monday.")
        call.expect.message().user().function_call().function_output("our largest table is for 8", is_error=True)


# --- hooks ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def hooks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The example, with a database of the test's own."""
    monkeypatch.setenv("SHOP_DATABASE", str(tmp_path / "shop.sqlite"))
    return load("hooks")


def rows(hooks: ModuleType, sql: str) -> list[Any]:
    with closing(sqlite3.connect(hooks.DATABASE)) as database:
        return database.execute(sql).fetchall()


@virtual_time
async def test_a_known_caller_is_welcomed_again_and_the_llm_is_told_what_was_loaded(hooks: ModuleType) -> None:
    for greeting in ("Welcome to the tea shop, Ann!", "Welcome to the tea shop again, Ann!"):
        async with Call(hooks.agent, "Four pounds.", user_id="Ann") as call:
            await call.settled()
            await call.write("What does the tea cost?")
            call.expect.message(greeting)
            assert "The tea costs four pounds." in call.script.requests[0].instructions
    assert rows(hooks, "SELECT * FROM users") == [("Ann", 2)]


@virtual_time
async def test_what_does_not_need_one_another_is_loaded_side_by_side(
    hooks: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    prices_wait, order = asyncio.Event(), []

    async def load_prices() -> dict[str, str]:
        order.append("prices begun")
        await prices_wait.wait()
        return {}

    async def load_visits(_: object) -> int:
        order.append("visits begun")
        prices_wait.set()  # one after the other, this would never come
        return 0

    monkeypatch.setattr(hooks, "load_prices", load_prices)
    monkeypatch.setattr(hooks, "load_visits", load_visits)
    async with Call(hooks.agent) as call:
        await call.settled()
    assert sorted(order) == ["prices begun", "visits begun"]


@virtual_time
async def test_a_config_service_that_hangs_is_not_waited_for(hooks: ModuleType) -> None:
    slow = {"config_delay_s": "100"}
    async with Call(hooks.agent, metadata=slow) as call:
        await call.settled()
        call.expect.message("Welcome!")  # nothing is cached in this process yet
    async with Call(hooks.agent) as call:
        await call.settled()
        call.expect.message("Welcome to the tea shop!")
    async with Call(hooks.agent, metadata=slow) as call:
        await call.settled()
        call.expect.message("Welcome to the tea shop!")  # what the service said last


@virtual_time
async def test_turns_are_logged_with_their_figures(hooks: ModuleType) -> None:
    async with Call(hooks.agent, "Four pounds.", "Six pounds.") as call:
        await call.settled()
        call.nodes.llm.first_token_s = 0.5
        for text in ("The tea?", "The coffee?"):
            await call.write(text)
    logged = rows(hooks, "SELECT turn, asked, ok, duration_s FROM turns")
    assert logged == [(1, "The tea?", 1, 0.5), (2, "The coffee?", 1, 0.5)]
    assert rows(hooks, "SELECT turns FROM visits") == [(2,)]


@virtual_time
async def test_a_database_that_is_locked_for_a_moment_loses_no_turn(hooks: ModuleType) -> None:
    opened = 0

    @asynccontextmanager
    async def unlocked_at_the_second() -> Any:
        nonlocal opened
        opened += 1
        if opened == 2:
            other.rollback()
        async with hooks.open_database() as database:
            yield database

    async with Call(hooks.agent, "Four pounds.") as call:
        await call.settled()
        with closing(sqlite3.connect(hooks.DATABASE)) as other:
            other.execute("BEGIN EXCLUSIVE")
            call.agent.hooks.db_connection = unlocked_at_the_second
            await call.write("The tea?")
            await call.until(lambda: opened == 2)
    assert rows(hooks, "SELECT turn, asked FROM turns") == [(1, "The tea?")]


@virtual_time
async def test_a_database_that_stays_locked_costs_a_figure_and_not_the_conversation(
    hooks: ModuleType, caplog: pytest.LogCaptureFixture
) -> None:
    async with Call(hooks.agent, "Four pounds.", "Six pounds.") as call:
        await call.settled()
        with closing(sqlite3.connect(hooks.DATABASE)) as other:
            other.execute("BEGIN EXCLUSIVE")
            await call.write("The tea?")
            await call.until(lambda: "the turn was not logged" in caplog.text)
        await call.write("The coffee?")
        assert call.transcript[-1] == ("agent", "Six pounds.")
    assert "database is locked" in caplog.text
    assert rows(hooks, "SELECT turn FROM turns") == [(2,)]


@virtual_time
async def test_what_on_exit_could_not_finish_is_undone_and_its_connection_closed(
    hooks: ModuleType, caplog: pytest.LogCaptureFixture
) -> None:
    async with Call(hooks.agent, user_id="Ann") as call:
        await call.settled()
        with closing(sqlite3.connect(hooks.DATABASE)) as database:
            database.execute("DROP TABLE users")
    assert "no such table: users" in caplog.text
    assert rows(hooks, "SELECT * FROM visits") == []


@virtual_time
async def test_only_a_caller_who_can_still_hear_it_is_told_goodbye(hooks: ModuleType) -> None:
    async with Call(hooks.agent) as stopped:
        await stopped.settled()
        await stopped.shut_down()
        assert stopped.transcript[-1] == ("agent", "I must go now. Goodbye!")
    async with Call(hooks.agent) as hung_up:
        await hung_up.settled()
    assert hung_up.transcript == [("agent", "Welcome to the tea shop!")]


# --- pipeline ---------------------------------------------------------------------------------------------------------


@virtual_time
async def test_profanities_are_masked_wherever_the_llm_cuts_its_words() -> None:
    async with Call(load("pipeline").agent, says("It is da", "mn", " cold, bloo", "dy hell.")) as call:
        await call.write("How is it?")
        call.expect.user().message("It is **** cold, **** ****.").nothing_more()
        shows = [one.text for one in call.messages if isinstance(one, Transcript) and one.speaker == "agent"]
        assert not any("damn" in text or "hell" in text for text in shows)


@virtual_time
async def test_pronunciation_is_changed_for_the_voice_alone() -> None:
    async with Call(load("pipeline").agent, "Antiphon speaks SQL.") as call:
        await call.write("What is it?")
        call.expect.user().message("Antiphon speaks SQL.")
        assert "".join(call.nodes.tts.spoken).strip() == "anti-fon speaks sequel."


@virtual_time
async def test_a_canned_answer_is_given_without_the_llm() -> None:
    async with Call(load("pipeline").agent) as call:
        await call.write("What are your opening hours?")
        call.expect.user().message("We are open from nine to five, but for Mondays.").nothing_more()


@virtual_time
async def test_the_recogniser_s_spelling_of_a_name_is_corrected() -> None:
    async with Call(load("pipeline").agent, "Very well.") as call:
        await call.speak(MONDAY, "an appointment for next monday")
        call.expect.user("an appointment for next Monday").message("Very well.")


def test_audio_is_made_louder_and_clipped_where_it_would_wrap() -> None:
    frame = AudioFrame(np.array([0, 1_000, -1_000, 30_000, -30_000], dtype="<i2").tobytes(), 16_000)
    louder = load("pipeline").louder(frame)
    assert louder.sample_rate == 16_000
    assert np.frombuffer(louder.pcm, dtype="<i2").tolist() == [0, 1_500, -1_500, 32_767, -32_768]
