"""One boundary for hostile input: bytes become a typed message here, or a `ProtocolError` that names what is wrong.

Nothing else in Antiphon decodes a message. The decoder raises no other kind of error, whatever it is given.
"""

from __future__ import annotations

import re
from typing import Any, Generic, TypeVar, get_args

import msgspec

from protocol.errors import Malformed, TooLarge, UnknownKind

T = TypeVar("T")

_INDEX = re.compile(r"\$((?:\[[^\]]*\])*)")
_SHOWN = 40  # characters of a peer's own text that an error repeats


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
        """Encode, or raise `TooLarge`: sizes are checked by the sender."""
        blob = self._encoder.encode(message)
        if len(blob) > self.max_bytes:
            kind = type(message).__struct_config__.tag  # type: ignore[attr-defined]
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


def _name_field(error: str, struct: type[msgspec.Struct]) -> str:
    """Turn msgspec's "… - at `$[4][0]`" into one that names the fields, as `docs/protocol.md` does."""
    match = _INDEX.search(error)
    if not match:
        return error
    path = re.findall(r"\[([^\]]*)\]", match.group(1))
    names: list[str] = []
    current: Any = struct
    offset = 1  # the kind
    for index in path:
        fields = (
            msgspec.structs.fields(current) if isinstance(current, type) and issubclass(current, msgspec.Struct) else ()
        )
        position = int(index) - offset if index.isdigit() else -1
        if 0 <= position < len(fields):
            names.append(fields[position].encode_name)
            current, offset = fields[position].type, 0
        else:
            names.append(f"[{index}]")
            current = None
    problem = error.split(" - at ")[0]
    return f"field {'.'.join(names)}: {problem}" if names else problem
