"""One boundary for hostile input: bytes become a typed message here, or a `ProtocolError` that names what is wrong.

Nothing else in Antiphon decodes a message. The decoder raises no other kind of error, whatever it is given.
"""

from __future__ import annotations

import re
from types import NoneType, UnionType
from typing import Annotated, Any, Generic, TypeVar, Union, get_args, get_origin

import msgspec

from protocol.errors import Malformed, TooLarge, UnknownKind

T = TypeVar("T")

_INDEX = re.compile(r"\$((?:\[[^\]]*\])*)")
_SHORT = re.compile(r"Expected `array` of at least length \d+, got (\d+)")
_SHOWN = 40  # characters of a peer's own text that an error repeats
_SAID = 200  # characters of what msgspec says, which may repeat the peer's text too


class Codec(Generic[T]):
    """Encodes and decodes one direction of one socket: a union of tagged message structs.

    Not safe to share between threads: the encoder reuses its buffer.
    """

    def __init__(self, union: Any, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self.kinds: dict[str, type[msgspec.Struct]] = {
            str(kind.__struct_config__.tag): kind for kind in (get_args(union) or (union,))
        }
        self._decoder: msgspec.msgpack.Decoder[T] = msgspec.msgpack.Decoder(union)
        self._encoder = msgspec.msgpack.Encoder()

    def encode(self, message: T) -> bytes:
        """Encode, or raise `TooLarge` (sizes are checked by the sender) or `Malformed` for what has no encoding."""
        try:
            blob = self._encoder.encode(message)
        except (
            ValueError,
            OverflowError,
            TypeError,
            RecursionError,
        ) as error:  # half a character, a number over 64 bits
            raise Malformed(f"a {_kind_of(message)!r} message that cannot be encoded: {str(error)[:_SAID]}") from None
        if len(blob) > self.max_bytes:
            kind = _kind_of(message)
            raise TooLarge(f"a {kind!r} message of {len(blob)} bytes; at most {self.max_bytes} bytes may be sent")
        return blob

    def decode(self, blob: bytes) -> T:
        """Decode and validate, or raise `Malformed`, `UnknownKind` or `TooLarge`."""
        if len(blob) > self.max_bytes:
            raise TooLarge(f"a message of {len(blob)} bytes; at most {self.max_bytes} bytes are accepted")
        try:
            return self._decoder.decode(blob)
        except (ValueError, RecursionError) as error:  # msgspec's own errors are ValueErrors
            raise self._explain(blob, error) from None

    def _explain(self, blob: bytes, error: Exception) -> Malformed | UnknownKind:
        fields = peek(blob)
        if fields is None:
            return Malformed(f"not one msgpack array of {len(blob)} bytes: {str(error)[:120]}")
        if not fields or not isinstance(fields[0], str):
            return Malformed("the first field of a message is its kind, a string")
        kind = fields[0]
        struct = self.kinds.get(kind)
        if struct is None:
            return UnknownKind(
                f"no message here is of kind {kind[:_SHOWN]!r}; known are {', '.join(sorted(self.kinds))}"
            )
        return Malformed(f"{kind}: {_name_field(str(error), struct)}")


def peek(blob: bytes) -> list[Any] | None:
    """The array that a message which failed validation holds, untyped; None if it is not even that."""
    try:
        fields = msgspec.msgpack.decode(blob)
    except (ValueError, RecursionError):
        return None
    return fields if isinstance(fields, list) else None


def _kind_of(message: object) -> str:
    return str(type(message).__struct_config__.tag)  # type: ignore[attr-defined]


def _name_field(error: str, struct: type[msgspec.Struct]) -> str:
    """Turn msgspec's "… - at `$[4][0]`" into one that names the fields, as `docs/protocol.md` does."""
    problem, _, place = error.partition(" - at ")
    match = _INDEX.search(place)
    name, current, offset = "", struct, 1  # the kind is before the fields
    for index in re.findall(r"\[([^\]]*)\]", match.group(1) if match else ""):
        step, current = _enter(current, index, offset)
        name += step if step.startswith("[") or not name else f".{step}"
        offset = 0
    if short := _SHORT.match(problem):  # then the error is about the whole struct, but one field is what is missing
        step, _ = _enter(current, short.group(1), offset)
        return f"field {name}{'.' if name else ''}{step} is missing: {problem}"
    problem = problem[:_SAID]
    return f"field {name}: {problem}" if name else problem


def _enter(kind: Any, index: str, offset: int) -> tuple[str, Any]:
    """The name and the type of what is at this place of a value of type `kind`; `[index]` where it has no name."""
    kind = _plain(kind)
    if isinstance(kind, type) and issubclass(kind, msgspec.Struct):
        fields = msgspec.structs.fields(kind)
        position = int(index) - offset if index.isdigit() else -1
        if 0 <= position < len(fields):
            return fields[position].encode_name, fields[position].type
    inner = get_args(kind)
    return f"[{index}]", inner[-1] if inner else None


def _plain(kind: Any) -> Any:
    """A type without `Annotated` and without `| None`."""
    if get_origin(kind) is Annotated:
        return _plain(get_args(kind)[0])
    if isinstance(kind, UnionType) or get_origin(kind) is Union:
        return _plain(next(part for part in get_args(kind) if part is not NoneType))
    return kind
