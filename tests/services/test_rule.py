"""The rule engine: which function it calls, what it asks, what it says, and that it makes nothing up."""

from __future__ import annotations

import asyncio
import json
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from protocol.node import ChatItem, FunctionCall, FunctionSchema
from services.llm.rule import LLM, Engine
from services.llm.rule_words import name_words, numbers, stem, words
from services.runtime.loading import engines_of

EXAMPLES = sorted((Path(__file__).resolve().parents[2] / "examples" / "audio").glob("*.txt"))
EXPECTED = [
    "Hello! Yes, I can hear you.",
    "Good morning! Yes. I can tell you the time and the date.",
    "It is 3:07 in the afternoon.",
    "You said: “What are your opening hours?” I am the built-in rule engine",
    "You said: “Where can I find your office?” I am the built-in rule engine",
    "You said: “I would like to make an appointment for next Monday.” I am the built-in rule engine",
]
NOW = datetime(2026, 11, 25, 15, 7)  # local time is what people ask for

TEXT = {"type": "string"}
INSTRUCTIONS = (
    "You are Ada, a receptionist. Always be polite about parking. Our opening hours are nine to five.\n"
    "Parking: behind the house.\nOur office is at 5 Main Street."
)


def function(name: str, description: str = "", required: tuple[str, ...] = (), **properties: Any) -> FunctionSchema:
    return FunctionSchema(name, description, {"type": "object", "properties": properties, "required": list(required)})


BILLING = function("transfer_to_billing", "Hand the caller over to billing.", ("reason",), reason=TEXT)
APPOINTMENT = function("bookAppointment", "Book an appointment.", ("day",), day=TEXT)
PIZZA = function(
    "order_pizza", "Order pizzas.", ("size", "count"),
    size={"enum": ["small", "large", "extra_large"]}, count={"type": "integer"}, extra_cheese={"type": "boolean"},
)  # fmt: skip
WEATHER = function("get_weather", "Current weather in a city.", ("city",), city=TEXT)
FUNCTIONS = [BILLING, APPOINTMENT, PIZZA, WEATHER]


def user(text: str) -> ChatItem:
    return ChatItem("user", text)


def assistant(text: str) -> ChatItem:
    return ChatItem("assistant", text)


def output(text: str, call_id: str = "c1") -> ChatItem:
    return ChatItem("function", text, call_id=call_id)


SYSTEM = ChatItem("system", INSTRUCTIONS)


def answer(*chat: ChatItem, functions: list[FunctionSchema] | None = None, **options: Any) -> str | FunctionCall:
    """The whole reply: its text, or its one call."""

    async def collect() -> str | FunctionCall:
        engine = Engine(lambda: NOW)
        chunks = [chunk async for chunk in engine.generate(LLM(**options), chat, functions or [])]
        assert all(chunk.text or chunk.call for chunk in chunks)
        if chunks[0].call is not None:
            assert len(chunks) == 1
            return chunks[0].call
        return "".join(chunk.text for chunk in chunks)

    return asyncio.run(collect())


def say(*chat: ChatItem, functions: list[FunctionSchema] | None = None) -> str:
    reply = answer(*chat, functions=functions)
    assert isinstance(reply, str), reply
    return reply


def call(text: str, functions: list[FunctionSchema] | None = None) -> tuple[str, dict[str, Any]]:
    reply = answer(user(text), functions=FUNCTIONS if functions is None else functions)
    assert isinstance(reply, FunctionCall), reply
    return reply.name, json.loads(reply.arguments)


@pytest.mark.parametrize(
    ("path", "expected"),
    list(zip(EXAMPLES, EXPECTED, strict=True)),
    ids=lambda value: value.stem if isinstance(value, Path) else "",
)
def test_each_example_utterance_gets_a_sensible_answer(path: Path, expected: str) -> None:
    assert say(user(path.read_text())).startswith(expected)


@pytest.mark.parametrize(
    ("heard", "expected"),
    [
        ("hello", "Hello! How can I help you?"),
        ("Good evening.", "Good evening! How can I help you?"),
        ("What's the time?", "It is 3:07 in the afternoon."),
        ("which day is it today", "Today is Wednesday, November 25, 2026."),
        ("what is your name", "I am the built-in rule engine of Antiphon."),
        ("thank you very much", "You are welcome."),
        ("Goodbye!", "Goodbye!"),
        ("  ", "I did not hear you. Could you say that again?"),
    ],
)
def test_small_talk(heard: str, expected: str) -> None:
    assert say(user(heard)) == expected


def test_help_names_the_offered_functions_in_words() -> None:
    assert say(user("What can you do?"), functions=[BILLING, APPOINTMENT]) == (
        "I can transfer to billing, book appointment or tell you the time and the date."
    )


def test_it_says_once_what_it_is_and_is_shorter_afterwards() -> None:
    first = say(user("Sing a song."))
    second = say(user("Sing a song."), assistant(first), user("Tell a joke."))
    assert "I am the built-in rule engine" in first
    assert second == "You said: “Tell a joke.” I know nothing about that."


def test_a_long_text_is_not_repeated_in_full() -> None:
    assert len(say(user("word " * 1_600))) < 250


@pytest.mark.parametrize(
    ("heard", "expected"),
    [
        ("What are your opening hours?", "Our opening hours are nine to five."),
        ("hello, where is your office please", "Our office is at 5 Main Street."),
        ("Where can I park?", "Parking: behind the house."),
        ("Thanks. And the parking?", "Parking: behind the house."),
        ("What is your name?", "I am Ada."),
        ("What time is it?", "It is 3:07 in the afternoon."),
    ],
)
def test_facts_in_the_instructions_answer_questions(heard: str, expected: str) -> None:
    assert say(SYSTEM, user(heard)) == expected


def test_instructions_on_how_to_behave_are_not_read_out() -> None:
    assert "Always" not in say(SYSTEM, user("Are you polite?"))


def test_without_anything_said_it_greets() -> None:
    assert answer(SYSTEM) == "Hello! How can I help you?"
    assert answer(greeting="Good day.") == "Good day."


@pytest.mark.parametrize(
    ("heard", "expected"),
    [
        ("Transfer me to billing because my order is wrong.", ("transfer_to_billing", {"reason": "my order is wrong"})),
        ("Billing, the reason is a refund", ("transfer_to_billing", {"reason": "a refund"})),
        ("I would like to make an appointment for next Monday.", ("bookAppointment", {"day": "next Monday"})),
        ("book an appointment “on the 3rd”", ("bookAppointment", {"day": "on the 3rd"})),
        ("What's the weather in São Paulo?", ("get_weather", {"city": "São Paulo"})),
        ("I want two extra large pizzas", ("order_pizza", {"size": "extra_large", "count": 2})),
        (
            "Order 25 small pizzas without extra cheese, please",
            ("order_pizza", {"size": "small", "count": 25, "extra_cheese": False}),
        ),
        (
            "ordering one large pizza with extra cheese",
            ("order_pizza", {"size": "large", "count": 1, "extra_cheese": True}),
        ),
    ],
)  # fmt: skip
def test_a_function_that_was_asked_for_is_called_with_what_was_said(
    heard: str, expected: tuple[str, dict[str, Any]]
) -> None:
    assert call(heard) == expected


@pytest.mark.parametrize(
    "heard",
    [
        "Do not transfer me to billing!",
        "I like cheese.",
        "What are your opening hours?",
        "Hello, can you hear me?",
        "ok",
    ],
)
def test_no_function_is_called_that_was_not_clearly_asked_for(heard: str) -> None:
    say(user(heard), functions=FUNCTIONS)


def test_between_two_that_fit_equally_it_asks() -> None:
    assert say(user("pizza or weather"), functions=FUNCTIONS) == "Do you want me to order pizza or get weather?"


def test_a_function_without_parameters_is_called_at_once() -> None:
    assert call("let me talk to Echo", [function("talk_to_echo")]) == ("talk_to_echo", {})


def test_what_was_not_said_is_asked_for_and_the_answers_complete_the_call() -> None:
    chat = [SYSTEM, user("A pizza with extra cheese, please.")]
    first = say(*chat, functions=FUNCTIONS)
    assert first == "Which size: small, large or extra large?"
    chat += [assistant(first), user("the red one")]
    again = say(*chat, functions=FUNCTIONS)
    assert again == f"I did not get that. {first}"
    chat += [assistant(again), user("Large.")]
    second = say(*chat, functions=FUNCTIONS)
    assert second == "What is the count?"
    chat += [assistant("What is"), user("three, I think")]  # the question was interrupted
    reply = answer(*chat, functions=FUNCTIONS)
    assert isinstance(reply, FunctionCall)
    assert json.loads(reply.arguments) == {"size": "large", "count": 3, "extra_cheese": True}


def test_an_answer_in_words_is_taken_as_it_is() -> None:
    chat = [user("Billing, please."), assistant("What is the reason?"), user("The reason is my last invoice.")]
    reply = answer(*chat, functions=FUNCTIONS)
    assert isinstance(reply, FunctionCall)
    assert json.loads(reply.arguments) == {"reason": "my last invoice"}


SIZES = function("choose_size", "The size was said.", ("size",), size={"enum": ["small", "extra_large"]})
TABLE = function("book_table", "Book a table.", ("people",), people={"type": "integer"})
CONFIRM = function("confirm_order", "Confirm the order.", ("correct",), correct={"type": "boolean"})


@pytest.mark.parametrize(
    ("asked", "heard", "offered", "arguments"),
    [
        ("Small or extra large?", "An extra large one, please.", SIZES, {"size": "extra_large"}),
        ("A table for how many people?", "Four people.", TABLE, {"people": 4}),
        ("How many people?", "twenty five", TABLE, {"people": 25}),
        ("Is the order correct?", "Yes, that's right.", CONFIRM, {"correct": True}),
        ("Is the order correct?", "No.", CONFIRM, {"correct": False}),
        ("Is the order correct?", "It is not correct.", CONFIRM, {"correct": False}),
    ],
)
def test_an_answer_to_a_question_about_a_function_is_its_argument(
    asked: str, heard: str, offered: FunctionSchema, arguments: dict[str, Any]
) -> None:
    reply = answer(assistant(asked), user(heard), functions=[offered, WEATHER])
    assert isinstance(reply, FunctionCall)
    assert (reply.name, json.loads(reply.arguments)) == (offered.name, arguments)


@pytest.mark.parametrize(
    ("asked", "heard", "offered"),
    [
        ("How can I help you?", "Yes.", [CONFIRM]),  # not asked about it
        ("Small or extra large?", "A small problem is that it rains.", [SIZES]),  # says more than that
        ("Small or extra large?", "Not small.", [SIZES]),
        ("How many people?", "four or five", [TABLE]),
        ("Is the order correct?", "Yes.", [CONFIRM, function("end_order", "", ("sure",), sure={"type": "boolean"})]),
    ],
)
def test_what_may_be_no_answer_calls_nothing(asked: str, heard: str, offered: list[FunctionSchema]) -> None:
    say(assistant(asked), user(heard), functions=offered)


def test_the_user_may_change_their_mind() -> None:
    asked = [user("Pizza."), assistant("Which size: small, large or extra large?")]
    assert say(*asked, user("Never mind."), functions=FUNCTIONS) == "All right, I leave it."
    other = answer(*asked, user("What is the weather in Rome?"), functions=FUNCTIONS)
    assert isinstance(other, FunctionCall)
    assert (other.name, json.loads(other.arguments)) == ("get_weather", {"city": "Rome"})


def test_a_call_that_was_made_is_not_made_again_by_what_follows() -> None:
    made = ChatItem("assistant", call=FunctionCall("c1", "transfer_to_billing", '{"reason": "x"}'))
    chat = [user("Billing please"), assistant("What is the reason?"), user("x"), made, output("done"), user("thanks")]
    assert say(*chat, functions=FUNCTIONS) == "You are welcome."


def test_several_texts_are_not_guessed_from_one_sentence() -> None:
    table = function("book_table", "", ("day", "guest"), day=TEXT, guest=TEXT)
    assert say(user("Book a table for Monday under Sam"), functions=[table]) == "What is the day?"


def test_a_number_goes_to_the_parameter_whose_name_is_beside_it() -> None:
    whole = {"type": "integer"}
    table = function("book_table", "", ("hour", "guests"), hour=whole, guests=whole)
    assert call("Book a table for 4 guests, hour 7", [table]) == ("book_table", {"hour": 7, "guests": 4})


def test_references_optional_types_and_lists_are_understood() -> None:
    schema = FunctionSchema(
        "plan_trip", "", {
            "type": "object", "required": ["mode", "stops"],
            "properties": {
                "mode": {"$ref": "#/$defs/Mode"},
                "stops": {"type": "array", "items": TEXT},
                "days": {"anyOf": [{"type": "integer"}, {"type": "null"}]},
            },
            "$defs": {"Mode": {"enum": ["train", "car"], "type": "string"}},
        },
    )  # fmt: skip
    name, arguments = call("plan a trip for 3 days by train: stops are Rome, Milan and Pisa", [schema])
    assert (name, arguments) == ("plan_trip", {"mode": "train", "stops": ["Rome", "Milan", "Pisa"], "days": 3})


def test_a_function_whose_required_argument_cannot_be_said_is_never_called() -> None:
    upload = function("upload_order", "", ("order",), order={"type": "object"})
    assert "rule engine" in say(user("upload my order"), functions=[upload])


@pytest.mark.parametrize("parameters", [{}, {"type": "object"}, {"properties": 3}, {"properties": {"a": 7}}])
def test_an_odd_schema_is_no_error(parameters: dict[str, Any]) -> None:
    answer(user("Start the engine"), functions=[FunctionSchema("start_engine", "", parameters)])


@pytest.mark.parametrize(
    ("returned", "expected"),
    [
        ("It will rain.", "It will rain."),
        ('"moved"', "moved."),
        ('{"temp": 20, "sky": ["clear", "cold"], "open_now": true}', "Temp: 20, sky: clear and cold, open now: yes."),
        ("[1, 2, 3]", "1, 2 and 3."),
        ("null", "Done."),
        ("", "Done."),
        ("Error: no such city", "I am sorry, that did not work: no such city."),
        ("ValueError: too late", "I am sorry, that did not work: too late."),
        ('{"error": "timeout"}', "I am sorry, that did not work: timeout."),
    ],
)
def test_what_a_function_returned_is_spoken(returned: str, expected: str) -> None:
    assert say(user("x"), output(returned)) == expected


def test_outputs_of_one_step_are_spoken_in_order() -> None:
    assert say(user("x"), output("One."), output("Two.", "c2")) == "One. Two."


def test_call_ids_are_unique() -> None:
    echo = [function("talk_to_echo")]
    calls = [answer(user("echo"), functions=echo) for _ in range(20)]
    assert len({reply.call_id for reply in calls if isinstance(reply, FunctionCall)}) == 20


def test_the_reply_streams_word_by_word_and_can_be_closed() -> None:
    async def stream() -> None:
        engine = Engine(lambda: NOW)
        parts = [chunk.text async for chunk in engine.generate(LLM(), [user("What time is it?")], [])]
        assert parts == ["It ", "is ", "3:07 ", "in ", "the ", "afternoon."]
        slow = engine.generate(LLM(delay_ms=1_000), [user("What time is it?")], [])
        started = asyncio.get_running_loop().time()
        assert (await anext(slow)).text == "It "
        waiting = asyncio.ensure_future(anext(slow))
        await asyncio.sleep(0)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        assert asyncio.get_running_loop().time() - started < 0.9

    asyncio.run(stream())


def test_the_same_conversation_gets_the_same_reply() -> None:
    chat = [SYSTEM, user("Pizza."), assistant("Which size: small, large or extra large?"), user("hm")]
    assert len({say(*chat, functions=FUNCTIONS) for _ in range(5)}) == 1


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2 or 2.5 or 1,250", [2, 2.5, 1250]),
        ("twenty five", [25]),
        ("two hundred and one, three", [201, 3]),
        ("one two three", [1, 2, 3]),
        ("five thousand three hundred", [5300]),
        ("nineteen eighty", [19, 80]),
        ("none at all and more", []),
        ("version 1.2.3", [1]),
    ],
)
def test_numbers_are_read_as_digits_and_as_words(text: str, expected: list[float]) -> None:
    assert [number.value for number in numbers(words(text))] == expected


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("hours", "hour"),
        ("billing", "bill"),
        ("transferred", "transfer"),
        ("reservation", "reserve"),
        ("cities", "city"),
    ],
)
def test_endings_do_not_matter(one: str, other: str) -> None:
    assert stem(one) == stem(other)


@pytest.mark.parametrize("name", ["transferToBilling", "transfer_to_billing", "TransferTo_Billing"])
def test_a_name_is_said_in_words(name: str) -> None:
    assert name_words(name) == "transfer to billing"


def test_only_the_engine_itself_is_found_as_one() -> None:
    assert [name for name in engines_of("llm") if name.startswith("rule")] == ["rule"]
