"""What a node and its pocketsphinx processes say to one another, over a pair of pipes. Knows no decoder.

Requests go down as a length of four bytes and msgpack; replies come up as lines of JSON, for a line is read whole or
not at all, also when the reader is cancelled. Each request has one reply, with its number.
"""

from __future__ import annotations

import struct
from typing import BinaryIO

import msgspec

LENGTH = struct.Struct("<I")


class Search(msgspec.Struct, frozen=True):
    """What a decoder listens for: a grammar, keywords with their thresholds, or (neither) English at large.

    `words`: pronunciations beyond the dictionary, (word, phones).
    """

    grammar: str = ""
    keywords: tuple[tuple[str, float], ...] = ()
    words: tuple[tuple[str, str], ...] = ()


class Begin(msgspec.Struct, tag=True):
    """An utterance starts; one that was not finished is dropped. `cepstral_mean` "": the model's own."""

    number: int
    search: Search
    cepstral_mean: str


class Listen(msgspec.Struct, tag=True):
    """Audio of the utterance: whole samples."""

    number: int
    pcm: bytes


class Finish(msgspec.Struct, tag=True):
    """The last audio of the utterance (may be empty)."""

    number: int
    pcm: bytes


class Check(msgspec.Struct, tag=True):
    """Is there anything wrong with this search?"""

    number: int
    search: Search


Request = Begin | Listen | Finish | Check


class Reply(msgspec.Struct):
    """The answer to the request of that number. Number 0: the process is ready, or says in `error` why it can't be.

    `error`: what went wrong, or what is wrong with `option`.
    """

    number: int
    text: str = ""
    confidence: float = 1.0
    cepstral_mean: str = ""
    option: str = ""
    error: str = ""


_REQUESTS: msgspec.msgpack.Decoder[Request] = msgspec.msgpack.Decoder(Request)
_REPLIES = msgspec.json.Decoder(Reply)


def request_frame(request: Request) -> bytes:
    """The bytes of a request."""
    body = msgspec.msgpack.encode(request)
    return LENGTH.pack(len(body)) + body


def read_request(pipe: BinaryIO) -> Request | None:
    """The next request; None at the end. Blocks."""
    head = pipe.read(LENGTH.size)
    if len(head) < LENGTH.size:
        return None
    (length,) = LENGTH.unpack(head)
    body = pipe.read(length)
    return _REQUESTS.decode(body) if len(body) == length else None


def reply_line(reply: Reply) -> bytes:
    """The bytes of a reply."""
    return msgspec.json.encode(reply) + b"\n"


def read_reply(line: bytes) -> Reply:
    """The reply in a line."""
    return _REPLIES.decode(line)
