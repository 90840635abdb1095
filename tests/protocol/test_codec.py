"""The codec: what goes in comes out, and whatever a peer sends is a message or a `ProtocolError` by name."""

from __future__ import annotations

import tracemalloc
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from protocol.errors import AntiphonError, Malformed, ProtocolError, TooLarge, UnknownKind
from protocol.ingest import FROM_CLIENT, TO_CLIENT, Audio, Error, Open, Text
from protocol.limits import MAX_INGEST_BYTES, MAX_NODE_BYTES
from protocol.node import FROM_NODE, TO_NODE, ChatItem, FunctionCall, Generate, Words
from tests.protocol.examples import fields_of
from tests.protocol.messages import BOMBS, CODECS, KINDS, array, messages, mutations, structs

thorough = settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.too_slow])
encode = msgspec.msgpack.encode
EXT = encode(msgspec.msgpack.Ext(5, b"no field takes this"))


@pytest.mark.parametrize(("direction", "kind"), KINDS)
@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_every_message_comes_back_as_it_went_in(direction: str, kind: str, data: st.DataObject) -> None:
    codec = CODECS[direction]
    message = data.draw(structs(codec.kinds[kind]))
    again = codec.decode(codec.encode(message))
    assert type(again) is codec.kinds[kind]
    assert again == message


@pytest.mark.parametrize("direction", CODECS)
@thorough
@given(data=st.data())
def test_whatever_is_done_to_a_message_only_protocol_errors_come_of_it(direction: str, data: st.DataObject) -> None:
    blob = data.draw(mutations(direction))
    problem = None
    try:
        message = CODECS[direction].decode(blob)
    except ProtocolError as error:
        problem = str(error)
    if problem is None:
        assert type(message) in CODECS[direction].kinds.values()
    else:
        assert 0 < len(problem) < 600  # it must fit into the answer


@pytest.mark.parametrize("direction", CODECS)
@thorough
@given(blob=st.binary(max_size=200))
@example(blob=b"")
def test_noise_is_malformed(direction: str, blob: bytes) -> None:
    try:
        CODECS[direction].decode(blob)
    except ProtocolError:
        return


@pytest.mark.parametrize("bomb", BOMBS)
@pytest.mark.parametrize(("direction", "kind"), KINDS)
def test_a_bomb_in_any_field_is_refused_or_harmless(direction: str, kind: str, bomb: bytes) -> None:
    codec = CODECS[direction]
    fields = [encode(kind), *(encode(value) for value in fields_of(codec.kinds[kind]))]
    for index in range(1, len(fields)):
        try:
            codec.decode(array([*fields[:index], bomb, *fields[index + 1 :]]))
        except ProtocolError:
            continue


def test_a_length_bomb_costs_no_memory() -> None:
    tracemalloc.start()
    try:
        for direction, kind in KINDS:
            for bomb in BOMBS[:5]:
                with pytest.raises(ProtocolError):
                    CODECS[direction].decode(array([encode(kind), bomb]))
        assert tracemalloc.get_traced_memory()[1] < 2_000_000
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(("direction", "kind"), KINDS)
def test_an_error_names_the_field_that_has_a_wrong_type(direction: str, kind: str) -> None:
    codec = CODECS[direction]
    struct = codec.kinds[kind]
    good = [encode(kind), *(encode(value) for value in fields_of(struct))]
    for index, field in enumerate(msgspec.structs.fields(struct), start=1):
        with pytest.raises(Malformed, match=rf"^{kind}: field {field.encode_name}: Expected "):
            codec.decode(array([*good[:index], EXT, *good[index + 1 :]]))


@pytest.mark.parametrize(("direction", "kind"), KINDS)
def test_an_error_names_the_field_that_is_missing(direction: str, kind: str) -> None:
    codec = CODECS[direction]
    struct = codec.kinds[kind]
    good = [encode(kind), *(encode(value) for value in fields_of(struct))]
    for index, field in enumerate(msgspec.structs.fields(struct), start=1):
        if field.required:
            with pytest.raises(Malformed, match=rf"^{kind}: field {field.encode_name} is missing"):
                codec.decode(array(good[:index]))


@pytest.mark.parametrize(
    ("direction", "fields", "problem"),
    [
        ("from client", ["open", "s", 0, 0, [1, 0], ["x"]], "open: field input.sample_rate: Expected `int`"),
        ("from client", ["open", "s", 0, 0, [1, "0"]], r"open: field version\[1\]: Expected `int`"),
        ("from client", ["played", "s", 0, 0, -1], "played: field played_ms: Expected `int` >= 0"),
        ("from client", ["text", "s", 0, 0, "x" * 8_001], "text: field text: Expected `str` of length <= 8000"),
        ("from client", ["ping", "s" * 65, 0, 0], "ping: field session: Expected `str` of length <= 64"),
        ("to client", ["state", "s", 0, 0, "dancing", "silent"], "state: field agent: Invalid enum value 'dancing'"),
        ("to client", ["metrics", "s", 0, 0, 1, "failed", 0, [1, "x"]], "field stages.stt_ms: Expected `float`"),
        ("to node", ["generate", 1, 0, 0, [["user"], ["dog"]]], r"field chat\[1\].role: Invalid enum value 'dog'"),
        ("to node", ["generate", 1, 0, 0, [["user", "", ["id", "n"]]]], r"field chat\[0\].call.arguments is missing"),
        ("to node", ["open", 1, 0, 0, "s", ["stt"]], "field spec.engine is missing"),
        ("from node", ["words", 1, 0, 0, 0, [[1, 2], [1, "x"]]], r"field words\[1\].offset: Expected `int`"),
        ("from node", ["chunk", 1, 0, 0, "", ["x", 1, "z"]], "field call.name: Expected `str`"),
    ],
)
def test_an_error_names_fields_within_fields(direction: str, fields: list[Any], problem: str) -> None:
    with pytest.raises(Malformed, match=problem):
        CODECS[direction].decode(encode(fields))


@pytest.mark.parametrize(
    ("fields", "problem"),
    [
        ([], "the first field of a message is its kind, a string"),
        ([1, 2], "the first field of a message is its kind, a string"),
        ({"kind": "open"}, "not one msgpack array of"),
        ("open", "not one msgpack array of"),
    ],
)
def test_what_has_no_kind_is_malformed(fields: Any, problem: str) -> None:
    with pytest.raises(Malformed, match=problem):
        FROM_CLIENT.decode(encode(fields))


def test_an_unknown_kind_is_told_from_a_malformed_message_and_shows_little_of_itself() -> None:
    with pytest.raises(UnknownKind, match="no message here is of kind 'sing'; known are audio, close"):
        FROM_CLIENT.decode(encode(["sing", "s", 0, 0]))
    with pytest.raises(UnknownKind) as caught:
        FROM_CLIENT.decode(encode(["x" * 60_000]))
    assert len(str(caught.value)) < 200
    with pytest.raises(UnknownKind):
        FROM_CLIENT.decode(encode(["opened", "s", 0, 0]))  # of the other direction


def test_what_an_error_repeats_of_a_peers_text_is_short() -> None:
    with pytest.raises(Malformed) as caught:
        TO_CLIENT.decode(encode(["state", "s", 0, 0, "x" * 60_000, "silent"]))
    assert len(str(caught.value)) < 300
    TO_CLIENT.encode(Error("s", 0, 0, "malformed", "fatal", str(caught.value)))


@pytest.mark.parametrize("direction", CODECS)
@settings(max_examples=50, deadline=None)
@given(data=st.data())
def test_fields_of_a_newer_minor_version_are_ignored(direction: str, data: st.DataObject) -> None:
    message = data.draw(messages(direction))
    fields = msgspec.msgpack.decode(CODECS[direction].encode(message))
    assert CODECS[direction].decode(encode([*fields, "new", {"and": "newer"}])) == message


@pytest.mark.parametrize("codec", [FROM_CLIENT, TO_CLIENT, FROM_NODE, TO_NODE])
def test_too_large_is_refused_by_the_sender_and_by_the_receiver_with_both_numbers(codec: Any) -> None:
    kind = codec.kinds.get("audio", Audio)
    nearly = codec.max_bytes - 1_000
    room = nearly + codec.max_bytes - len(codec.encode(_filled(kind, bytes(nearly))))
    assert codec.max_bytes in (MAX_INGEST_BYTES, MAX_NODE_BYTES)
    blob = codec.encode(_filled(kind, bytes(room)))
    assert len(blob) == codec.max_bytes
    codec.decode(blob)
    numbers = f"{codec.max_bytes + 1} bytes; at most {codec.max_bytes} bytes"
    with pytest.raises(TooLarge, match=f"an? 'audio' message of {numbers} may be sent"):
        codec.encode(_filled(kind, bytes(room + 1)))
    with pytest.raises(TooLarge, match=f"a message of {numbers} are accepted"):
        codec.decode(blob + b"\0")


@pytest.mark.parametrize(
    ("message", "problem"),
    [
        (Text("s", 0, 0, "half a \ud800"), "'text' message that cannot be encoded.*surrogates not allowed"),
        (Text("s", 0, 2**64, "x"), "'text' message that cannot be encoded.*2\\*\\*64"),
        (Open("s", 0, 0, metadata={"a": object()}), "'open' message that cannot be encoded"),  # type: ignore[dict-item]
    ],
)
def test_what_cannot_be_encoded_is_an_error_of_ours(message: Any, problem: str) -> None:
    with pytest.raises(AntiphonError, match=problem):
        FROM_CLIENT.encode(message)


def test_a_message_that_failed_leaves_the_encoder_usable() -> None:
    with pytest.raises(Malformed):
        FROM_CLIENT.encode(Text("s", 0, 0, "\ud800"))
    assert FROM_CLIENT.decode(FROM_CLIENT.encode(Text("s", 0, 0, "x"))) == Text("s", 0, 0, "x")


def test_a_chat_and_its_words_travel_whole() -> None:
    chat = [
        ChatItem("user", "what time is it?"),
        ChatItem("assistant", call=FunctionCall("c1", "time", "{}")),
        ChatItem("function", "noon", call_id="c1"),
    ]
    assert TO_NODE.decode(TO_NODE.encode(Generate(7, 1, 0, chat))) == Generate(7, 1, 0, chat)
    assert FROM_NODE.decode(FROM_NODE.encode(Words(7, 1, 0, 2, []))) == Words(7, 1, 0, 2, [])


def _filled(kind: Any, pcm: bytes) -> Any:
    """An audio message with this sound."""
    head = ("s" if kind is Audio else 1, 0, 0)
    return kind(*head, pcm=pcm, **({"piece": 0} if "piece" in kind.__struct_fields__ else {}))
