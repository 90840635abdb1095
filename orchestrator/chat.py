"""What was said and done: the chat context of a conversation. Knows nothing of engines, of how their providers want it
written, or of sessions.

A context is a list of items, oldest first. Users may change that list itself (`ctx.items`), so nothing here relies on
having seen a change: ids are looked up in an index that is checked against the list whenever it is asked.
"""

from __future__ import annotations

import math
import reprlib
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import MISSING, dataclass, field, fields
from heapq import merge
from operator import attrgetter
from typing import Any, ClassVar, Literal, NoReturn, TypeAlias, get_args, get_type_hints
from uuid import uuid4

import msgspec

Role = Literal["system", "user", "assistant"]

ROLES = frozenset(get_args(Role))
VERSION = 1  # of what `to_dict` writes
SHOWN = 60  # characters of an item that a repr shows
READ_ONLY = "this chat_ctx is a read-only view; use update_chat_ctx()"


def _new_id() -> str:
    return f"item_{uuid4().hex}"


@dataclass(slots=True)
class ChatMessage:
    """One thing that was said. An assistant's message holds what was *heard*; `interrupted`: it was cut off.

    May be edited, but for its id and its time. Another role than the three raises ValueError.
    """

    kind: ClassVar[str] = "message"
    role: Role
    text: str
    interrupted: bool = False
    id: str = field(default_factory=_new_id, kw_only=True)
    created_at: float = field(default_factory=time.time, kw_only=True)  # seconds since the epoch, UTC

    def __post_init__(self) -> None:
        if self.role not in ROLES:
            raise ValueError(f"a message's role is {_WORDS[Role]}, not {self.role!r}")


@dataclass(slots=True, frozen=True)
class FunctionCall:
    """The LLM called a function. `arguments`: JSON text, as the LLM wrote it; it may be wrong."""

    kind: ClassVar[str] = "function_call"
    name: str
    arguments: str
    call_id: str
    id: str = field(default_factory=_new_id, kw_only=True)
    created_at: float = field(default_factory=time.time, kw_only=True)  # seconds since the epoch, UTC


@dataclass(slots=True, frozen=True)
class FunctionOutput:
    """What a function gave back to the LLM. `call_id`: of its call; `is_error`: the output says what went wrong."""

    kind: ClassVar[str] = "function_output"
    call_id: str
    name: str
    output: str
    is_error: bool = False
    id: str = field(default_factory=_new_id, kw_only=True)
    created_at: float = field(default_factory=time.time, kw_only=True)  # seconds since the epoch, UTC


@dataclass(slots=True, frozen=True)
class Handoff:
    """Another task took over. Both are names of classes; `from_task` is None for the first task."""

    kind: ClassVar[str] = "handoff"
    from_task: str | None
    to_task: str
    id: str = field(default_factory=_new_id, kw_only=True)
    created_at: float = field(default_factory=time.time, kw_only=True)  # seconds since the epoch, UTC


ChatItem: TypeAlias = ChatMessage | FunctionCall | FunctionOutput | Handoff


@dataclass(slots=True)
class ChatChunk:
    """A part of an LLM's reply, as it streams: text, a call, or both."""

    text: str = ""
    call: FunctionCall | None = None


class ChatContext:
    """The items of a conversation, oldest first.

    Made empty or of items, which stay in the order given; two with one id raise ValueError.
    """

    __slots__ = ("_index", "_items")

    def __init__(self, items: Iterable[ChatItem] = ()) -> None:
        # Always the same list, changed in place: views and users hold it.
        self._items = list(items)
        _refuse_duplicates(self._items)
        self._index = _Index(self._items)

    @property
    def items(self) -> list[ChatItem]:
        """The list itself: what is done to it is done to the context. It stays the same list if it is assigned to."""
        return self._items

    @items.setter
    def items(self, items: Iterable[ChatItem]) -> None:
        self._items[:] = items

    @property
    def messages(self) -> tuple[ChatMessage, ...]:
        """The messages, without calls, outputs and handoffs. The messages themselves: editing one edits the context."""
        return tuple(item for item in self._items if isinstance(item, ChatMessage))

    def __len__(self) -> int:
        return len(self._items)

    def __iter__(self) -> Iterator[ChatItem]:
        return iter(self._items)

    def __repr__(self) -> str:
        if not self._items:
            return f"{type(self).__name__}(empty)"
        counts = Counter(item.kind.replace("_", " ") for item in self._items)
        counted = ", ".join(f"{count} {kind}{'s' if count > 1 else ''}" for kind, count in counts.items())
        return f"{type(self).__name__}({counted}; last: {_summary(self._items[-1])})"

    def add_message(self, role: Role, text: str, *, interrupted: bool = False) -> ChatMessage:
        """Append a message and return it. It is never older than the item before it, even if the clock is set back."""
        message = ChatMessage(role, text, interrupted)
        if self._items:
            message.created_at = max(message.created_at, self._items[-1].created_at)
        self._items.append(message)
        return message

    def insert(self, item: ChatItem) -> None:
        """Put an item where it belongs by its time: after all that are as old, and an output never before its call.

        Raises ValueError if an item with this id is there already.
        """
        if self._index.position(item.id) is not None:
            raise ValueError(f"an item with the id {item.id!r} is in this chat context already: {_summary(item)}")
        at = len(self._items)
        while at and self._items[at - 1].created_at > item.created_at and not _answers(item, self._items[at - 1]):
            at -= 1
        self._items.insert(at, item)

    def get(self, id: str) -> ChatItem | None:
        """The item with this id; None if it is not there."""
        position = self._index.position(id)
        return None if position is None else self._items[position]

    def remove(self, id: str) -> ChatItem:
        """Take out the item with this id and return it. Raises ValueError if it is not there."""
        item = self.get(id)
        if item is None:
            raise ValueError(f"no item with the id {id!r} is in this chat context")
        self._items[:] = [other for other in self._items if other.id != id]
        return item

    def copy(
        self,
        *,
        exclude_function_calls: bool = False,
        exclude_handoffs: bool = False,
        exclude_instructions: bool = False,
    ) -> ChatContext:
        """A context of its own, with the same ids: changing it or its messages does not change this one.

        `exclude_function_calls` leaves out the outputs as well; `exclude_instructions` leaves out system messages.
        """
        copied = ChatContext()
        for item in self._items:
            if isinstance(item, ChatMessage):
                if not (exclude_instructions and _instructs(item)):
                    copied._items.append(_copied(item))
            elif not (exclude_handoffs if isinstance(item, Handoff) else exclude_function_calls):
                copied._items.append(item)  # frozen: both may hold it
        return copied

    def merge(self, other: ChatContext) -> ChatContext:
        """Put in the items of another context, by time, whose ids are not there yet; returns this context.

        The items themselves, not copies. Neither context's own order is changed by it.
        """
        known = {item.id for item in self._items}
        new: list[ChatItem] = []
        for item in other._items:
            if item.id not in known:
                known.add(item.id)
                new.append(item)
        if new:
            self._items[:] = list(merge(self._items, new, key=attrgetter("created_at")))
        return self

    def truncate(self, max_items: int) -> ChatContext:
        """Keep the newest `max_items` items and, besides, a system message that leads all; returns this context.

        No output stays without its call, nor a call whose output went: there may be fewer items than asked for.
        Raises ValueError if `max_items` is below 1.
        """
        if max_items < 1:
            raise ValueError(f"max_items is at least 1, not {max_items!r}")
        start = max(0, len(self._items) - max_items)
        lead = [item for item in self._items[: min(start, 1)] if _instructs(item)]
        self._items[:] = lead + _without_orphans(self._items[start:])
        return self

    def to_dict(self) -> dict[str, Any]:
        """The context in plain types that JSON knows. Raises ValueError if `items` was given two with one id."""
        _refuse_duplicates(self._items)  # it could not be read again
        items = [{"kind": item.kind, **msgspec.to_builtins(item)} for item in self._items]
        return {"version": VERSION, "items": items}

    @staticmethod
    def from_dict(data: Mapping[str, Any]) -> ChatContext:
        """The context that `to_dict` wrote, exactly.

        Raises ValueError, which names the item and the field, what it is and what is allowed. Kinds and fields that
        are not known (a newer version's) are refused, for they would be lost.
        """
        return ChatContext(_read_items(data))

    def view(self) -> ReadOnlyChatContext:
        """A read-only view of this context that shows its later changes."""
        return ReadOnlyChatContext(self)


class ReadOnlyChatContext(ChatContext):
    """A live view of a context: what changes it raises TypeError. `copy()` gives an ordinary context."""

    __slots__ = ()

    def __init__(self, source: ChatContext) -> None:
        self._items = source._items
        self._index = source._index

    @property  # type: ignore[override]  # a list would lose what is done to it
    def items(self) -> tuple[ChatItem, ...]:
        """The items as they are now."""
        return tuple(self._items)

    @items.setter
    def items(self, items: Iterable[ChatItem]) -> NoReturn:
        raise TypeError(READ_ONLY)

    def view(self) -> ReadOnlyChatContext:
        """This view."""
        return self

    def add_message(self, role: Role, text: str, *, interrupted: bool = False) -> NoReturn:
        """Raises TypeError."""
        raise TypeError(READ_ONLY)

    def insert(self, item: ChatItem) -> NoReturn:
        """Raises TypeError."""
        raise TypeError(READ_ONLY)

    def remove(self, id: str) -> NoReturn:
        """Raises TypeError."""
        raise TypeError(READ_ONLY)

    def merge(self, other: ChatContext) -> NoReturn:
        """Raises TypeError."""
        raise TypeError(READ_ONLY)

    def truncate(self, max_items: int) -> NoReturn:
        """Raises TypeError."""
        raise TypeError(READ_ONLY)


class _Index:
    """Where each id is in a list that may be changed behind our back.

    It remembers the items that it has seen. They are compared with the list whenever the index is asked: lists compare
    identical items without looking into them, so that 10,000 take tens of microseconds. What was appended is added;
    after any other change the index is made anew.
    """

    __slots__ = ("_items", "_positions", "_seen")

    def __init__(self, items: list[ChatItem]) -> None:
        self._items = items
        self._seen: list[ChatItem] = []
        self._positions: dict[str, int] = {}

    def position(self, id: str) -> int | None:
        """Where the first item with this id is; None if there is none."""
        if self._items[: len(self._seen)] != self._seen:
            self._seen.clear()
            self._positions.clear()
        for item in self._items[len(self._seen) :]:
            self._positions.setdefault(item.id, len(self._seen))
            self._seen.append(item)
        return self._positions.get(id)


def _refuse_duplicates(items: list[ChatItem]) -> None:
    if len({item.id for item in items}) == len(items):
        return
    id, times = Counter(item.id for item in items).most_common(1)[0]
    raise ValueError(f"{times} items of a chat context have the id {id!r}; each has one of its own")


def _copied(message: ChatMessage) -> ChatMessage:
    return ChatMessage(message.role, message.text, message.interrupted, id=message.id, created_at=message.created_at)


def _instructs(item: ChatItem) -> bool:
    return isinstance(item, ChatMessage) and item.role == "system"


def _answers(item: ChatItem, call: ChatItem) -> bool:
    return isinstance(item, FunctionOutput) and isinstance(call, FunctionCall) and item.call_id == call.call_id


def _without_orphans(items: Sequence[ChatItem]) -> list[ChatItem]:
    """These items but for the outputs with no call before them: some LLMs use a call_id again, so before, not anywhere.

    An output comes after its call: what is cut off in front never leaves a call without its output.
    """
    called: set[str] = set()
    kept: list[ChatItem] = []
    for item in items:
        if isinstance(item, FunctionCall):
            called.add(item.call_id)
        if not isinstance(item, FunctionOutput) or item.call_id in called:
            kept.append(item)
    return kept


def _summary(item: ChatItem) -> str:
    """An item in a few words, for logs."""
    match item:
        case ChatMessage():
            return f"{item.role} {_shortened(item.text)}{' (interrupted)' if item.interrupted else ''}"
        case FunctionCall():
            return f"call {item.name}({_shortened(item.arguments)})"
        case FunctionOutput():
            return f"{'error' if item.is_error else 'output'} of {item.name} {_shortened(item.output)}"
        case Handoff():
            return f"handoff {item.from_task or ''} -> {item.to_task}".replace("  ", " ")


def _shortened(text: str) -> str:
    return repr(text if len(text) <= SHOWN else f"{text[: SHOWN - 1]}…")


# Reading what `to_dict` wrote.

_KINDS: dict[str, type[ChatItem]] = {kind.kind: kind for kind in (ChatMessage, FunctionCall, FunctionOutput, Handoff)}
_HINTS = {kind: get_type_hints(cls) for kind, cls in _KINDS.items()}
_WORDS: dict[Any, str] = {
    Role: 'one of "system", "user", "assistant"',
    str: "a string",
    str | None: "a string or null",
    bool: "true or false",
    float: "a finite number of seconds since the epoch",
}


def _read_items(data: Any) -> list[ChatItem]:
    if not isinstance(data, Mapping):
        raise _refusal("the whole", data, 'a dict with "version" and "items"')
    version, stored = data.get("version"), data.get("items")
    if type(version) is not int or version != VERSION:
        raise _refusal("version", version, f"{VERSION}, which is all that this version of Antiphon reads")
    if not isinstance(stored, list | tuple):
        raise _refusal("items", stored, "a list")
    items: list[ChatItem] = []
    at_of: dict[str, int] = {}
    for at, one in enumerate(stored):
        item = _read_item(one, f"items[{at}]")
        if (first := at_of.setdefault(item.id, at)) != at:
            raise _refusal(f"items[{at}].id", item.id, f"an id of its own, and this is that of items[{first}]")
        items.append(item)
    return items


def _read_item(data: Any, where: str) -> ChatItem:
    if not isinstance(data, Mapping):
        raise _refusal(where, data, 'a dict with "kind" and the fields of that kind')
    kind = data.get("kind")
    if not isinstance(kind, str) or kind not in _KINDS:
        raise _refusal(f"{where}.kind", kind, f"one of {', '.join(_KINDS)}; a newer version may know more")
    hints = _HINTS[kind]
    known = {one.name: one for one in fields(_KINDS[kind])}
    for name in data:
        if name not in known and name != "kind":
            raise _refusal(f"{where}.{name}", data[name], f"the fields of a {kind}: {', '.join(known)}")
    values: dict[str, Any] = {}
    for name, one in known.items():
        if name in data:
            values[name] = _read_field(data[name], hints[name], f"{where}.{name}")
        elif one.default is MISSING:  # one with a plain default came with a later version, or goes without saying
            raise ValueError(f"chat context: {where}.{name} is missing; allowed: {_WORDS[hints[name]]}")
    return _KINDS[kind](**values)


def _read_field(value: Any, hint: Any, where: str) -> Any:
    try:
        checked = msgspec.convert(value, hint)
    except msgspec.ValidationError as error:
        raise _refusal(where, value, _WORDS[hint]) from error
    if hint is float and not math.isfinite(checked):
        raise _refusal(where, value, _WORDS[hint])
    return checked


def _refusal(where: str, given: Any, allowed: str) -> ValueError:
    return ValueError(f"chat context: {where} is {reprlib.repr(given)}; allowed: {allowed}")
