"""The chat context: its order, its copies and views, what is cut off and what is stored."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.chat import ChatContext, ChatItem, ChatMessage, FunctionCall, FunctionOutput, Handoff


def said(text: str, at: float = 0.0, role: Any = "user") -> ChatMessage:
    return ChatMessage(role, text, id=f"item_{text}", created_at=at)


def call(call_id: str, at: float = 0.0) -> FunctionCall:
    return FunctionCall("look_up", "{}", call_id, created_at=at)


def output(call_id: str, at: float = 0.0) -> FunctionOutput:
    return FunctionOutput(call_id, "look_up", "42", created_at=at)


def texts(chat: ChatContext) -> list[str]:
    return [message.text for message in chat.messages]


def outline(chat: ChatContext) -> list[str]:
    """Each item in a word: the text of a message, "call a", "output a", or a handoff's task."""
    words = {ChatMessage: "text", Handoff: "to_task", FunctionCall: "call_id", FunctionOutput: "call_id"}
    prefixes = {FunctionCall: "call ", FunctionOutput: "output "}
    return [prefixes.get(type(item), "") + getattr(item, words[type(item)]) for item in chat]


def mixed() -> ChatContext:
    return ChatContext(
        [
            said("be kind", 1.0, "system"),
            Handoff(None, "Greeter", created_at=2.0),
            said("what is it?", 3.0),
            call("a", 4.0),
            output("a", 5.0),
            said("it is 42", 6.0, "assistant"),
        ]
    )


# Items


def test_an_item_has_an_id_of_its_own_and_the_time_of_day() -> None:
    before = time.time()
    items: list[ChatItem] = [ChatMessage("user", "hi"), call("a"), output("a"), Handoff(None, "Greeter")]
    assert len({item.id for item in items}) == len(items)
    assert all(item.id.startswith("item_") for item in items)
    assert [item.kind for item in items] == ["message", "function_call", "function_output", "handoff"]
    assert before <= items[0].created_at <= items[3].created_at <= time.time()


def test_a_message_of_a_role_that_there_is_not_is_refused_when_it_is_made() -> None:
    role: Any = "agent"
    with pytest.raises(ValueError, match='one of "system", "user", "assistant", not \'agent\''):
        ChatContext().add_message(role, "hi")


# Adding, finding, removing


def test_a_message_that_is_added_comes_last_and_is_returned() -> None:
    chat = ChatContext()
    first = chat.add_message("user", "hello")
    last = chat.add_message("assistant", "Good mor", interrupted=True)
    assert chat.items == [first, last]
    assert (first.interrupted, last.interrupted) == (False, True)
    assert len(chat) == 2


def test_a_clock_that_is_set_back_does_not_disorder_the_messages() -> None:
    before_it_was_set_back = time.time() + 3_600
    chat = ChatContext([said("first", before_it_was_set_back)])
    assert chat.add_message("user", "second").created_at == before_it_was_set_back
    chat.insert(said("third", before_it_was_set_back))
    assert texts(chat) == ["first", "second", "third"]


def test_an_item_is_inserted_by_its_time_and_after_those_that_are_as_old() -> None:
    chat = ChatContext()
    for text, at in [("c", 2.0), ("a", 1.0), ("e", 3.0), ("d", 2.0), ("b", 1.0)]:
        chat.insert(said(text, at))
    assert texts(chat) == ["a", "b", "c", "d", "e"]


def test_an_output_is_never_inserted_before_its_call_even_if_the_clock_was_set_back() -> None:
    chat = ChatContext([said("hi", 9.0), call("a", 10.0), call("b", 10.0)])
    chat.insert(output("b", 5.0))
    chat.insert(output("a", 4.0))
    assert outline(chat) == ["hi", "call a", "output a", "call b", "output b"]


def test_an_id_that_is_there_already_is_refused() -> None:
    chat = ChatContext([said("hi")])
    with pytest.raises(ValueError, match="the id 'item_hi' is in this chat context already: user 'hi'"):
        chat.insert(said("hi", 5.0))
    with pytest.raises(ValueError, match="2 items of a chat context have the id 'item_hi'"):
        ChatContext([said("hi"), said("ho"), said("hi")])
    assert len(chat) == 1


def test_an_item_is_found_and_removed_by_its_id() -> None:
    chat = mixed()
    wanted = chat.items[3]
    assert chat.get(wanted.id) is wanted
    assert chat.remove(wanted.id) is wanted
    assert chat.get(wanted.id) is None
    assert len(chat) == 5
    with pytest.raises(ValueError, match=f"no item with the id '{wanted.id}'"):
        chat.remove(wanted.id)


def test_only_messages_are_listed_as_messages_and_they_are_the_items_themselves() -> None:
    chat = mixed()
    chat.messages[1].text = "what was it?"
    assert texts(chat) == ["be kind", "what was it?", "it is 42"]


# The list of items may be changed by anybody


@pytest.mark.parametrize(
    "change",
    [
        lambda items, new: items.append(new),
        lambda items, new: items.insert(0, new),
        lambda items, new: items.__setitem__(1, new),
        lambda items, new: items.__setitem__(slice(None), [new]),
    ],
)
def test_an_item_that_was_put_into_the_list_itself_is_found_and_cannot_be_inserted_again(
    change: Callable[[list[ChatItem], ChatItem], object],
) -> None:
    chat = ChatContext([said("a"), said("b"), said("c")])
    assert chat.get("item_new") is None  # now the index knows the ids
    new = said("new")
    change(chat.items, new)
    assert chat.get("item_new") is new
    with pytest.raises(ValueError, match="item_new"):
        chat.insert(new)


def test_an_item_that_was_taken_from_the_list_itself_is_gone_and_may_come_back() -> None:
    chat = ChatContext([said("a"), said("b"), said("c")])
    assert chat.get("item_b") is not None
    gone = chat.items.pop(1)
    assert chat.get("item_b") is None
    chat.insert(gone)
    assert texts(chat) == ["a", "c", "b"]


def test_an_item_that_was_replaced_by_its_like_is_the_one_that_is_found() -> None:
    chat = ChatContext([said("a"), said("b")])
    before = chat.get("item_b")
    chat.items[1] = after = said("b")
    assert after == before
    assert chat.get("item_b") is after


def test_a_view_and_its_context_find_the_same_items_after_any_change() -> None:
    chat = ChatContext()
    view = chat.view()
    for number in range(50):
        chat.insert(said(str(number), float(-number)))
        assert view.get(f"item_{number}") is chat.get(f"item_{number}") is chat.items[0]
    chat.items.clear()
    assert view.get("item_7") is None


changes = st.lists(st.tuples(st.sampled_from(["insert", "append", "pop", "reverse", "remove"]), st.integers(0, 5)))


@given(changes)
def test_whatever_was_done_to_the_list_every_id_is_found_where_it_is(history: list[tuple[str, int]]) -> None:
    chat = ChatContext()
    for what, number in history:
        there = {item.id: item for item in chat.items}
        new = said(str(number), float(number))
        match what:
            case "insert" if new.id not in there:
                chat.insert(new)
            case "append" if new.id not in there:
                chat.items.append(new)
            case "pop" if there:
                chat.items.pop(number % len(there))
            case "reverse":
                chat.items.reverse()
            case "remove" if new.id in there:
                chat.remove(new.id)
        now = {item.id: item for item in chat.items}
        assert all(chat.get(f"item_{one}") is now.get(f"item_{one}") for one in range(6))


# Copies


def test_a_copy_has_the_same_ids_and_a_list_and_messages_of_its_own() -> None:
    chat = mixed()
    copied = chat.copy()
    assert copied.items == chat.items
    copied.add_message("user", "more")
    copied.messages[0].text = "be rude"
    assert outline(chat) == outline(mixed())
    assert len(copied) == 7


def test_a_copy_leaves_out_what_it_is_told_to() -> None:
    chat = mixed()
    assert outline(chat.copy(exclude_function_calls=True)) == ["be kind", "Greeter", "what is it?", "it is 42"]
    assert outline(chat.copy(exclude_handoffs=True)) == ["be kind", "what is it?", "call a", "output a", "it is 42"]
    assert outline(chat.copy(exclude_instructions=True))[0] == "Greeter"
    bare = chat.copy(exclude_function_calls=True, exclude_handoffs=True, exclude_instructions=True)
    assert outline(bare) == ["what is it?", "it is 42"]


# Merging


def test_merging_puts_in_by_time_what_is_not_there_yet_and_returns_the_context() -> None:
    chat = ChatContext([said("a", 1.0), said("c", 3.0)])
    inline = ChatContext([said("a", 1.0), said("b", 2.0), said("c2", 3.0), said("d", 4.0)])
    assert chat.merge(inline) is chat
    assert texts(chat) == ["a", "b", "c", "c2", "d"]
    assert chat.merge(inline.view()).merge(chat) is chat
    assert len(chat) == 5
    assert len(inline) == 4
    inline.items += [said("e", 5.0), said("e", 5.0)]  # twice, which `insert` would have refused
    assert texts(chat.merge(inline)) == ["a", "b", "c", "c2", "d", "e"]


def test_merging_does_not_change_the_order_that_either_context_had() -> None:
    chat = ChatContext([said("a", 1.0), call("x", 9.0), output("x", 2.0)])
    chat.merge(ChatContext([said("b", 5.0), said("c", 3.0), said("d", 10.0)]))
    assert outline(chat) == ["a", "b", "c", "call x", "output x", "d"]


times = st.lists(st.integers(0, 5).map(float), max_size=8)


@given(times, times)
def test_merging_two_contexts_is_inserting_one_item_after_another(ours: list[float], theirs: list[float]) -> None:
    mine = ChatContext(said(f"ours {number}", at) for number, at in enumerate(sorted(ours)))
    other = ChatContext(said(f"theirs {number}", at) for number, at in enumerate(sorted(theirs)))
    one_by_one = mine.copy()
    for item in other:
        one_by_one.insert(item)
    assert texts(mine.merge(other)) == texts(one_by_one)


# Truncating


def test_the_newest_items_are_kept_and_a_system_message_that_leads() -> None:
    chat = ChatContext([said("be kind", role="system"), said("a"), said("b"), said("c")])
    assert chat.truncate(2) is chat
    assert texts(chat) == ["be kind", "b", "c"]
    assert texts(chat.truncate(3)) == ["be kind", "b", "c"]
    assert texts(ChatContext([said("a"), said("be kind", role="system"), said("b")]).truncate(1)) == ["b"]


def test_no_output_is_left_whose_call_was_cut_off() -> None:
    chat = ChatContext([said("hi"), call("a"), call("b"), output("a"), output("b"), said("done")])
    assert outline(chat.copy().truncate(5)) == ["call a", "call b", "output a", "output b", "done"]
    assert outline(chat.copy().truncate(4)) == ["call b", "output b", "done"]
    assert outline(chat.copy().truncate(3)) == ["done"]


def test_a_call_whose_output_is_still_to_come_is_kept() -> None:
    assert outline(ChatContext([said("hi"), call("a")]).truncate(1)) == ["call a"]


def test_an_output_goes_with_its_call_when_the_llm_used_the_call_id_again() -> None:
    chat = ChatContext([call("1"), output("1"), said("hi"), call("1"), output("1")])
    assert outline(chat.truncate(4)) == ["hi", "call 1", "output 1"]


@pytest.mark.parametrize("max_items", [0, -3])
def test_a_context_cannot_be_truncated_to_nothing(max_items: int) -> None:
    chat = mixed()
    with pytest.raises(ValueError, match=f"max_items is at least 1, not {max_items}"):
        chat.truncate(max_items)
    assert len(chat) == 6


@given(st.lists(st.one_of(st.text(max_size=2), st.integers(0, 3)), max_size=20), st.integers(1, 25))
def test_wherever_a_context_is_cut_calls_and_outputs_stay_together(steps: list[str | int], max_items: int) -> None:
    chat, running = ChatContext(), set[str]()
    for step in steps:  # a number begins a call, or ends it if it runs
        if isinstance(step, str):
            chat.items.append(ChatMessage("user", step))
        elif str(step) in running:
            running.remove(str(step))
            chat.items.append(output(str(step)))
        else:
            running.add(str(step))
            chat.items.append(call(str(step)))
    before = chat.items.copy()
    chat.truncate(max_items)
    assert len(chat) <= max_items
    assert [item for item in before if item in chat.items] == chat.items
    assert [item for item in before[-max_items:] if isinstance(item, ChatMessage)] == list(chat.messages)
    called = Counter(item.call_id for item in chat if isinstance(item, FunctionCall))
    answered = Counter(item.call_id for item in chat if isinstance(item, FunctionOutput))
    assert called - Counter(running) == answered


# Views


def test_a_view_shows_what_happens_to_its_context_later() -> None:
    chat = mixed()
    view = chat.view()
    added = chat.add_message("user", "and then?")
    assert view.items == tuple(chat.items)
    assert view.get(added.id) is added
    chat.truncate(1)
    chat.items.append(said("b"))
    assert texts(view) == ["be kind", "and then?", "b"]
    assert (len(view), [*view], view.to_dict()) == (3, chat.items, chat.to_dict())
    assert isinstance(view, ChatContext)
    assert view.view() is view


@pytest.mark.parametrize(
    "change",
    [
        lambda view: view.add_message("user", "hi"),
        lambda view: view.insert(said("hi")),
        lambda view: view.remove(view.items[0].id),
        lambda view: view.merge(ChatContext()),
        lambda view: view.truncate(1),
        lambda view: setattr(view, "items", []),
    ],
)
def test_a_view_refuses_to_be_changed_and_says_how_it_is_done(change: Callable[[ChatContext], object]) -> None:
    chat = mixed()
    with pytest.raises(TypeError, match=r"^this chat_ctx is a read-only view; use update_chat_ctx\(\)$"):
        change(chat.view())
    assert len(chat) == 6


def test_a_copy_of_a_view_is_an_ordinary_context() -> None:
    chat = mixed()
    copied = chat.view().copy(exclude_handoffs=True)
    assert type(copied) is ChatContext
    copied.add_message("user", "more")
    assert (len(copied), len(chat)) == (6, 6)


def test_no_change_is_lost_silently() -> None:
    chat = ChatContext()
    view, listed = chat.view(), chat.items
    chat.items.append(said("a"))
    chat.items += [said("b")]
    assert texts(chat) == texts(view) == ["a", "b"]
    chat.items = [said("c")]
    listed.append(said("d"))
    assert texts(chat) == texts(view) == ["c", "d"]
    for nothing_to_append_to in (view.items, view.messages, chat.messages):
        assert isinstance(nothing_to_append_to, tuple)


# What a log shows


def test_a_context_is_short_in_a_log_and_says_what_is_in_it() -> None:
    assert repr(ChatContext()) == "ChatContext(empty)"
    chat = mixed()
    counted = "3 messages, 1 handoff, 1 function call, 1 function output"
    assert repr(chat) == f"ChatContext({counted}; last: assistant 'it is 42')"
    chat.add_message("assistant", "long " * 100, interrupted=True)
    assert repr(chat.view()).startswith("ReadOnlyChatContext(4 messages")
    assert repr(chat).endswith("long…' (interrupted))")
    assert len(repr(chat)) < 200


@pytest.mark.parametrize(
    ("item", "shown"),
    [
        (call("a"), "1 function call; last: call look_up('{}')"),
        (output("a"), "1 function output; last: output of look_up '42'"),
        (FunctionOutput("a", "look_up", "no", is_error=True), "1 function output; last: error of look_up 'no'"),
        (Handoff(None, "Greeter"), "1 handoff; last: handoff -> Greeter"),
        (Handoff("Greeter", "Billing"), "1 handoff; last: handoff Greeter -> Billing"),
    ],
)
def test_the_last_item_is_shown_in_a_few_words(item: ChatItem, shown: str) -> None:
    assert repr(ChatContext([item])) == f"ChatContext({shown})"


# Storing

ids = st.uuids().map(lambda number: f"item_{number.hex}")
moments = st.floats(allow_nan=False, allow_infinity=False)
kept = {"id": ids, "created_at": moments}
words = st.text(max_size=20)
roles = st.sampled_from(["system", "user", "assistant"])
items = st.one_of(
    st.builds(ChatMessage, roles, words, st.booleans(), **kept),
    st.builds(FunctionCall, words, words, words, **kept),
    st.builds(FunctionOutput, words, words, words, st.booleans(), **kept),
    st.builds(Handoff, st.none() | words, words, **kept),
)


@given(st.lists(items, max_size=10, unique_by=lambda item: item.id))
def test_what_is_stored_as_json_is_read_again_exactly(stored: list[ChatItem]) -> None:
    chat = ChatContext(stored)
    read = ChatContext.from_dict(json.loads(json.dumps(chat.to_dict())))
    assert read.items == chat.items
    assert [type(item) for item in read] == [type(item) for item in chat]
    assert read.to_dict() == chat.to_dict()


def test_what_is_stored_has_a_version_and_the_kind_of_each_item() -> None:
    stored = ChatContext([said("hi", 1.5)]).to_dict()
    message = {"role": "user", "text": "hi", "interrupted": False, "id": "item_hi", "created_at": 1.5}
    assert stored == {"version": 1, "items": [{"kind": "message", **message}]}


def test_fields_that_go_without_saying_may_be_left_out() -> None:
    message = {"kind": "message", "role": "user", "text": "hi", "id": "item_hi", "created_at": 1}
    read = ChatContext.from_dict({"version": 1, "items": [message]})
    assert read.items == [said("hi", 1.0)]
    assert isinstance(read.items[0].created_at, float)


def test_a_context_with_an_item_twice_is_not_stored_for_it_could_not_be_read() -> None:
    chat = ChatContext([said("hi")])
    chat.items.append(chat.items[0])
    with pytest.raises(ValueError, match="2 items of a chat context have the id 'item_hi'"):
        chat.to_dict()


@pytest.mark.parametrize(
    ("data", "refusal"),
    [
        ([], 'the whole is []; allowed: a dict with "version" and "items"'),
        ({"items": []}, "version is None; allowed: 1, "),
        ({"version": 2, "items": []}, "version is 2; allowed: 1, "),
        ({"version": True, "items": []}, "version is True; allowed: 1, "),
        ({"version": 1}, "items is None; allowed: a list"),
        ({"version": 1, "items": {}}, "items is {}; allowed: a list"),
        ({"version": 1, "items": ["hi"]}, "items[0] is 'hi'; allowed: a dict with \"kind\""),
    ],
)
def test_what_is_no_stored_context_is_refused(data: Any, refusal: str) -> None:
    with pytest.raises(ValueError, match="chat context: ") as raised:
        ChatContext.from_dict(data)
    assert str(raised.value).startswith(f"chat context: {refusal}")


@pytest.mark.parametrize(
    ("at", "field", "given_value", "allowed"),
    [
        (0, "role", "agent", 'one of "system", "user", "assistant"'),
        (0, "text", None, "a string"),
        (0, "interrupted", 1, "true or false"),
        (0, "id", 7, "a string"),
        (0, "created_at", "now", "a finite number of seconds since the epoch"),
        (0, "created_at", True, "a finite number of seconds since the epoch"),
        (0, "created_at", float("inf"), "a finite number of seconds since the epoch"),
        (0, "created_at", float("nan"), "a finite number of seconds since the epoch"),
        (1, "from_task", 3, "a string or null"),
        (3, "arguments", {}, "a string"),
        (4, "is_error", "no", "true or false"),
        (5, "kind", "image", "one of message, function_call, function_output, handoff; a newer version may know more"),
        (5, "kind", ["message"], "one of message, function_call, function_output, handoff; "),
        (5, "mood", "glad", "the fields of a message: role, text, interrupted, id, created_at"),
    ],
)
def test_a_wrong_field_is_named_with_what_it_is_and_what_is_allowed(
    at: int, field: str, given_value: Any, allowed: str
) -> None:
    stored = mixed().to_dict()
    stored["items"][at][field] = given_value
    with pytest.raises(ValueError, match="chat context: ") as raised:
        ChatContext.from_dict(stored)
    assert str(raised.value).startswith(f"chat context: items[{at}].{field} is {given_value!r}; allowed: {allowed}")


@pytest.mark.parametrize(("at", "field"), [(0, "text"), (0, "id"), (1, "from_task"), (3, "created_at"), (4, "call_id")])
def test_a_field_that_is_missing_is_named(at: int, field: str) -> None:
    stored = mixed().to_dict()
    del stored["items"][at][field]
    with pytest.raises(ValueError, match=rf"chat context: items\[{at}\]\.{field} is missing; allowed: a "):
        ChatContext.from_dict(stored)


def test_an_id_that_is_stored_twice_is_named_with_both_its_items() -> None:
    stored = mixed().to_dict()
    stored["items"][4]["id"] = stored["items"][2]["id"]
    with pytest.raises(ValueError, match=r"items\[4\]\.id is 'item_what is it\?'; .* that of items\[2\]"):
        ChatContext.from_dict(stored)


def test_a_refusal_does_not_repeat_a_long_text() -> None:
    stored = mixed().to_dict()
    stored["items"][0]["role"] = "x" * 100_000
    with pytest.raises(ValueError, match="role") as raised:
        ChatContext.from_dict(stored)
    assert len(str(raised.value)) < 200
