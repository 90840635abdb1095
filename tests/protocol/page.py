"""The parts of docs/protocol.md that follow from the code: a table for each message, the limits, and real bytes.

`python -m tests.protocol.page` writes them into the page, between their marks; a test says when that is due.
"""

from __future__ import annotations

import inspect
import re
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import msgspec

from protocol import limits
from protocol.audio import AudioFormat
from protocol.codec import Codec
from protocol.engine import EngineSpec
from protocol.ingest import FROM_CLIENT, TO_CLIENT, Audio, Error, Open, StageTimes, Transcript
from protocol.node import FROM_NODE, TO_NODE, ChatItem, FunctionCall, FunctionSchema, Register, Word

PAGE = Path(__file__).parent.parent.parent / "docs" / "protocol.md"
ROUTING_FIELDS = 3
NAMES = {int: "integer", str: "text", bytes: "bytes", float: "float", bool: "boolean", NoneType: "nil"}
PARTS = (AudioFormat, StageTimes, EngineSpec, ChatItem, FunctionCall, FunctionSchema, Word)
SESSION = "6f1e2d3c4b5a69788796a5b4c3d2e1f0"
EXAMPLES: tuple[tuple[str, Codec[Any], Any], ...] = (
    ("open, from a client", FROM_CLIENT, Open(SESSION, 0, 0, reports_played=True, user="ann")),
    ("audio, from a client: four samples", FROM_CLIENT, Audio(SESSION, 0, 1, bytes.fromhex("0000ff7f00800100"))),
    ("transcript, to a client", TO_CLIENT, Transcript(SESSION, 1, 9, 1, "user", "hello", True)),
    ("error, to a client", TO_CLIENT, Error("", 0, 0, "malformed", "fatal", "audio: field pcm: …")),
    ("register, from a node", FROM_NODE, Register(0, 0, 0, "vad", "silero", "vad-01", "e1", 7, "host", 200, "ready")),
)


def sections() -> dict[str, str]:
    """What belongs between the marks of each name."""
    return {
        "ingest, from the client": tables(FROM_CLIENT),
        "ingest, from the orchestrator": tables(TO_CLIENT),
        "nodes, from the orchestrator": tables(TO_NODE),
        "nodes, from a node": tables(FROM_NODE),
        "parts": "\n".join(section(part, part.__name__, 0) for part in PARTS),
        "limits": _limits(),
        "bytes": "\n".join(_example(*example) for example in EXAMPLES),
    }


def tables(codec: Codec[Any]) -> str:
    """A section for each message, in the order in which they are declared."""
    return "\n".join(section(struct, kind, ROUTING_FIELDS) for kind, struct in codec.kinds.items())


def section(struct: type[msgspec.Struct], name: str, skipped: int) -> str:
    """Heading, meaning, and the fields after the first `skipped`, in their order."""
    meaning = inspect.getdoc(struct) or ""
    rows = [
        f"| `{field.encode_name}` | {_type(field.type)} | {_default(field)} |"
        for field in msgspec.structs.fields(struct)[skipped:]
    ]
    body = ["| field | type | if left out |", "|---|---|---|", *rows] if rows else ["No further fields."]
    return "\n".join([f"#### `{name}`", "", meaning, "", *body, ""])


def _type(kind: Any) -> str:
    origin, arguments = get_origin(kind), get_args(kind)
    if origin is Annotated:
        return ", ".join([_type(arguments[0]), *_bounds(arguments[1])])
    if origin is Literal:
        return " or ".join(f'"{value}"' for value in arguments)
    if origin is Union or isinstance(kind, UnionType):
        return " or ".join(_type(part) for part in arguments)
    if origin is list:
        return f"array of {_type(arguments[0])}"
    if origin is dict:
        return f"map of {_type(arguments[0])} to {_type(arguments[1])}"
    if origin is tuple:
        return f"[{', '.join(_type(part) for part in arguments)}]"
    if isinstance(kind, type) and issubclass(kind, msgspec.Struct):
        return f"`{kind.__name__}`"
    return NAMES.get(kind, "anything")


def _bounds(meta: msgspec.Meta) -> list[str]:
    found = [] if meta.ge is None else [f"at least {meta.ge}"]
    if meta.max_length is not None:
        found.append(f"{meta.min_length or 0} to {meta.max_length:,} characters")
    return found


def _default(field: Any) -> str:
    if field.default is msgspec.NODEFAULT:
        return "not allowed" if field.default_factory is msgspec.NODEFAULT else "empty"
    value = msgspec.to_builtins(field.default)
    return f"`{msgspec.json.encode(value).decode()}`".replace("null", "nil")


def _limits() -> str:
    """The constants of protocol/limits.py with the comments beside them."""
    source = inspect.getsource(limits)
    rows = []
    for name, comment in re.findall(r"^([A-Z_]+): Final = [^#\n]*(?:# (.*))?$", source, re.MULTILINE):
        value = getattr(limits, name)
        shown = f"{value:,}" if isinstance(value, int) else ".".join(map(str, value))
        rows.append(f"| `{name}` | {shown} | {comment} |")
    return "\n".join(["| name | value | |", "|---|---|---|", *rows, ""])


def _example(title: str, codec: Codec[Any], message: Any) -> str:
    blob = codec.encode(message)
    rows = [blob[start : start + 16] for start in range(0, len(blob), 16)]
    dump = [
        f"{row.hex(' '):48} {''.join(chr(byte) if 32 <= byte < 127 else '.' for byte in row)}".rstrip() for row in rows
    ]
    return "\n".join([f"{title} ({len(blob)} bytes):", "", "```", *dump, "```", ""])


def filled(page: str) -> str:
    """The page with every section as the code has it now."""
    for name, text in sections().items():
        begin, end = f"<!-- {name} -->\n", f"<!-- end of {name} -->"
        before, _, rest = page.partition(begin)
        assert rest, f"docs/protocol.md has no mark {begin.strip()}"
        page = before + begin + "\n" + text + "\n" + end + rest.partition(end)[2]
    return page


if __name__ == "__main__":
    PAGE.write_text(filled(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
