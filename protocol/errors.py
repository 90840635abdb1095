"""The errors of Antiphon, divided by who can act on them.

    AntiphonError
    ├── ConfigurationError        the person who wrote the configuration, the options or the command
    │   ├── OptionError           an option of an engine: names the option, the value and what is allowed
    │   ├── EndpointError         an address that cannot be bound or dialled
    │   └── EngineUnavailable     an engine that does not exist or is not installed: names the extra
    ├── ProtocolError             the author of the peer that sent it
    │   ├── Malformed             not a message, or a field of the wrong type: names the field
    │   ├── UnknownKind           a kind of message that this version does not have
    │   ├── VersionMismatch       another major version of the protocol
    │   ├── UnknownSession        a message for a session that is not open here, or not this peer's
    │   ├── DuplicateSession      `open` with the id of a session that is open
    │   └── TooLarge              over a limit: both numbers are given
    ├── Unavailable               nobody, or the operator: try again, start a process
    │   ├── NoNode                no live node serves the engine
    │   ├── Overloaded            no slot is left
    │   │   └── SessionsFull      the orchestrator holds as many sessions as it may
    │   ├── Draining              the orchestrator takes no new sessions: it is about to leave
    │   ├── NodeLost              the node died or hung while it worked
    │   └── ConnectionLost        the orchestrator does not answer
    ├── SessionEnded              the caller: the conversation is over, open another one
    └── EngineError               the engine failed on this input; its category says whether another try helps

`code` and `category` travel over the wire; `message` is a sentence for a person.
"""

from __future__ import annotations

import reprlib
from typing import ClassVar, Literal

_SHOWN = 80  # characters of a value that an error repeats: a peer may have sent megabytes
_short = reprlib.Repr()
_short.maxstring = _short.maxother = _short.maxlong = _SHOWN
_short.maxlevel = 2

Category = Literal["retryable", "configuration", "fatal"]


class AntiphonError(Exception):
    """Base of all errors that a user can meet. `str()` is the whole sentence."""

    code: ClassVar[str] = "internal"
    category: Category = "fatal"


class ConfigurationError(AntiphonError):
    """Something that was configured is wrong; trying again cannot help."""

    code = "configuration"
    category: Category = "configuration"


class OptionError(ConfigurationError):
    """An option has a value that is not allowed."""

    code = "bad_option"

    def __init__(self, owner: str, option: str, value: object, allowed: str) -> None:
        super().__init__(f"{owner}: option {option[:_SHOWN]!r} is {_short.repr(value)}; {allowed}")
        self.owner = owner
        self.option = option


class EndpointError(ConfigurationError):
    """An address cannot be used as asked."""

    code = "bad_endpoint"


class EngineUnavailable(ConfigurationError):
    """The engine does not exist or needs an extra that is not installed."""

    code = "engine_unavailable"


class ProtocolError(AntiphonError):
    """A message that cannot be accepted."""

    code = "protocol"


class Malformed(ProtocolError):
    """Not a message of this protocol, or one whose field has a wrong type or value."""

    code = "malformed"


class UnknownKind(ProtocolError):
    """A well-formed message of a kind that this side does not know."""

    code = "unknown_kind"


class VersionMismatch(ProtocolError):
    """The peer speaks another major version."""

    code = "version"
    category: Category = "configuration"


class UnknownSession(ProtocolError):
    """The session has ended, was never opened here, or belongs to another peer."""

    code = "unknown_session"
    category: Category = "retryable"


class DuplicateSession(ProtocolError):
    """The id of a new session is in use: ids must be random."""

    code = "duplicate_session"


class TooLarge(ProtocolError):
    """A message or frame over its limit."""

    code = "too_large"


class Unavailable(AntiphonError):
    """Nothing is wrong with what was asked; it can't be served just now."""

    code = "unavailable"
    category: Category = "retryable"


class NoNode(Unavailable):
    """No live node serves the engine."""

    code = "no_node"


class Overloaded(Unavailable):
    """Every slot is taken."""

    code = "overloaded"


class SessionsFull(Overloaded):
    """The orchestrator holds as many sessions as it may."""

    code = "sessions_full"


class Draining(Unavailable):
    """The orchestrator takes no new sessions; another one may."""

    code = "draining"


class NodeLost(Unavailable):
    """A node went away with work in its hands."""

    code = "node_lost"


class ConnectionLost(Unavailable):
    """The orchestrator does not answer."""

    code = "connection_lost"


class SessionEnded(AntiphonError):
    """Something was to be sent in a conversation that is over."""

    code = "session_ended"


class EngineError(AntiphonError):
    """An engine failed. `category` says whether the same request may succeed elsewhere."""

    code = "engine"

    def __init__(self, message: str, *, category: Category = "retryable") -> None:
        super().__init__(message)
        self.category = category


class RemoteError(AntiphonError):
    """An error that the other side reported, with its code and category."""

    def __init__(self, code: str, category: Category, message: str) -> None:
        super().__init__(message)
        self.code = code  # type: ignore[misc]  # each remote error carries its own
        self.category = category
