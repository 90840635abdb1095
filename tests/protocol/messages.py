"""Valid messages of every kind for hypothesis, made from their declared types; and what can be done to their bytes."""

from __future__ import annotations

from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import msgspec
from hypothesis import strategies as st

from protocol.codec import Codec
from protocol.control import FROM_CONTROL, TO_CONTROL
from protocol.ingest import FROM_CLIENT, TO_CLIENT
from protocol.node import FROM_NODE, TO_NODE

CODECS: dict[str, Codec[Any]] = {
    "from client": FROM_CLIENT,
    "to client": TO_CLIENT,
    "from node": FROM_NODE,
    "to node": TO_NODE,
    "from control": FROM_CONTROL,
    "to control": TO_CONTROL,
}
KINDS = [(direction, kind) for direction, codec in CODECS.items() for kind in sorted(codec.kinds)]

# What a hostile peer may put where something else belongs, as bytes of msgpack.
BOMBS = (
    b"\xdd\xff\xff\xff\xff",  # an array of 2³² elements
    b"\xdf\xff\xff\xff\xff",  # a map of as many
    b"\xc6\xff\xff\xff\xff",  # 4 GiB of bytes
    b"\xdb\xff\xff\xff\xff",  # and of text
    b"\xc9\xff\xff\xff\xff\x01",
    b"\x91" * 3_000 + b"\xc0",  # deep
    b"\x81\xa1k" * 3_000 + b"\xc0",
    b"\x81\x80\x01",  # a map whose key is a map
    b"\xd7\xff" + b"\xff" * 8,  # a time that does not exist
    b"\xc7\x0c\xff" + b"\xff" * 12,
    b"\xa2\xff\xfe",  # text that is not UTF-8
    b"\xc1",  # never used in msgpack
    b"\xcf" + b"\xff" * 8,
    b"\xcb\x7f\xf8" + b"\x00" * 6,  # not a number
)

_plain_values = st.none() | st.booleans() | st.integers(-(2**31), 2**31) | st.text(max_size=8)
_any_value = st.recursive(
    _plain_values,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)


def values(kind: Any) -> st.SearchStrategy[Any]:
    """Values that a field of this type may have."""
    limits = msgspec.Meta()
    if get_origin(kind) is Annotated:
        kind, limits = get_args(kind)
    origin, arguments = get_origin(kind), get_args(kind)
    if origin is Literal:
        return st.sampled_from(arguments)
    if isinstance(kind, UnionType) or origin is Union:
        return st.one_of([values(part) for part in arguments])
    if origin is list:
        return st.lists(values(arguments[0]), max_size=3)
    if origin is dict:
        return st.dictionaries(values(arguments[0]), values(arguments[1]), max_size=3)
    if origin is tuple:
        return st.tuples(*map(values, arguments))
    if isinstance(kind, type) and issubclass(kind, msgspec.Struct):
        return structs(kind)
    return _scalars(kind, limits)


def _scalars(kind: Any, limits: msgspec.Meta) -> st.SearchStrategy[Any]:
    if kind is int:
        return st.integers(limits.ge if limits.ge is not None else -(2**63), 2**64 - 1)  # type: ignore[arg-type]
    if kind is str:
        return st.text(min_size=limits.min_length or 0, max_size=min(limits.max_length or 20, 20))
    if kind is bytes:
        return st.binary(max_size=64)
    if kind is float:
        return st.floats(allow_nan=False)
    if kind is bool:
        return st.booleans()
    if kind is NoneType:
        return st.none()
    assert kind is Any, kind
    return _any_value


def structs(kind: type[msgspec.Struct]) -> st.SearchStrategy[Any]:
    """Messages (or parts of them) of this kind."""
    return st.builds(kind, **{field.name: values(field.type) for field in msgspec.structs.fields(kind)})


def messages(direction: str) -> st.SearchStrategy[Any]:
    """Messages of any kind of this direction."""
    return st.one_of([structs(kind) for kind in CODECS[direction].kinds.values()])


@st.composite
def mutations(draw: st.DrawFn, direction: str) -> bytes:
    """The bytes of a message, damaged."""
    blob = bytearray(CODECS[direction].encode(draw(messages(direction))))
    for _ in range(draw(st.integers(1, 3))):
        at = draw(st.integers(0, len(blob)))
        match draw(st.integers(0, 5)):
            case 0 if at < len(blob):
                blob[at] ^= 1 << draw(st.integers(0, 7))
            case 1:
                del blob[at:]
            case 2:
                blob[at:at] = draw(st.binary(min_size=1, max_size=8))
            case 3:
                blob[at:at] = draw(st.sampled_from(BOMBS))
            case 4:
                del blob[at : at + draw(st.integers(1, 8))]
            case _:
                blob = bytearray(swapped(draw, bytes(blob)))
    return bytes(blob)


def swapped(draw: st.DrawFn, blob: bytes) -> bytes:
    """One field replaced by anything, if this is still an array."""
    try:
        fields = msgspec.msgpack.decode(blob)
    except (ValueError, RecursionError):
        return blob
    if not isinstance(fields, list) or not fields:
        return blob
    encoded = [msgspec.msgpack.encode(field) for field in fields]
    other = _any_value.map(msgspec.msgpack.encode) | st.sampled_from(BOMBS)
    encoded[draw(st.integers(0, len(encoded) - 1))] = draw(other)
    return array(encoded)


def array(encoded: list[bytes]) -> bytes:
    """A msgpack array of elements that are encoded already."""
    return b"\xdc" + len(encoded).to_bytes(2, "big") + b"".join(encoded)
