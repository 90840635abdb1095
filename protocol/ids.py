"""Names that are unique: epochs, session ids, and the identities of sockets."""

from __future__ import annotations

import os
import secrets


def new_epoch() -> str:
    """A random name for this start of this process: a restarted peer is a new peer."""
    return secrets.token_hex(8)


def new_session_id() -> str:
    """A session id that nobody can guess."""
    return secrets.token_hex(16)


def socket_identity(name: str, epoch: str) -> bytes:
    """What a ROUTER knows this peer by. Holds the epoch, so that no two starts of a process share one.

    ZeroMQ allows 255 bytes and reserves a leading zero byte.
    """
    return f"{name}.{epoch}".encode()[:255]


def process_name(service: str) -> str:
    """A readable default name for a process that was given none."""
    return f"{service}-{os.getpid()}"
