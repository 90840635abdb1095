"""Addresses: which may be bound, how they are found, and that nobody binds the same one twice."""

from __future__ import annotations

import fcntl
import glob
import ipaddress
import os
import socket
from pathlib import Path
from typing import TextIO

from protocol.errors import EndpointError

IPC = "ipc://"
TCP = "tcp://"
MAX_IPC_PATH = 107  # bytes in sockaddr_un; libzmq truncates nothing, it fails


def check(endpoint: str) -> None:
    """Raise `EndpointError` unless this is `ipc://PATH` or `tcp://HOST:PORT`."""
    if endpoint.startswith(IPC):
        path = endpoint.removeprefix(IPC)
        if not path.startswith("/"):
            raise EndpointError(f"{endpoint}: an ipc address needs an absolute path, as in ipc:///run/antiphon/a.nodes")
        if len(os.fsencode(path)) > MAX_IPC_PATH:
            raise EndpointError(
                f"{endpoint}: the path has {len(os.fsencode(path))} bytes; the operating system allows {MAX_IPC_PATH}. "
                "Choose a shorter run directory (--run-dir)"
            )
    elif endpoint.startswith(TCP):
        host, _, port = endpoint.removeprefix(TCP).rpartition(":")
        if not host or not (port == "*" or (port.isascii() and port.isdigit() and int(port) <= 65_535)):
            raise EndpointError(f"{endpoint}: a tcp address is tcp://HOST:PORT, as in tcp://127.0.0.1:7701")
    else:
        raise EndpointError(f"{endpoint}: an address starts with ipc:// or tcp://")


def check_bind(endpoint: str, *, insecure: bool) -> None:
    """Raise `EndpointError` if binding here would offer an unencrypted socket to the network."""
    check(endpoint)
    if endpoint.startswith(TCP) and not insecure:
        host = endpoint.removeprefix(TCP).rpartition(":")[0].strip("[]")
        try:
            loopback = ipaddress.ip_address(host).is_loopback
        except ValueError:
            loopback = host == "localhost"
        if not loopback:
            raise EndpointError(
                f"{endpoint}: this socket is not encrypted, so it may only be bound to loopback (127.0.0.1) or ipc. "
                "Where the network itself is trusted, say --insecure"
            )


def lock(endpoint: str) -> TextIO | None:
    """Take the lock file of an ipc address, for a second bind of the same path steals it silently.

    Returns the open lock file (keep it as long as the socket), or None for tcp, where the system refuses by itself.
    Raises `EndpointError`, which names the process that holds it.
    """
    if not endpoint.startswith(IPC):
        return None
    path = Path(endpoint.removeprefix(IPC))
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        held = open(f"{path}.lock", "a+", encoding="ascii")  # noqa: SIM115  # held as long as the socket
    except OSError as error:
        raise EndpointError(
            f"{endpoint}: its lock file cannot be made: {error.strerror or error} ({error.filename}). "
            "Choose another run directory (--run-dir)"
        ) from None
    try:
        fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        held.seek(0)
        owner = held.read().strip() or "unknown"
        held.close()
        raise EndpointError(
            f"{endpoint}: already bound by process {owner}; stop it, or use another --name or --run-dir"
        ) from None
    held.truncate(0)
    held.write(str(os.getpid()))
    held.flush()
    return held


def expand(endpoint: str) -> list[str]:
    """Every address that this one names now: an ipc pattern's files, a host name's addresses.

    libzmq would dial only the first record of a name, so names are resolved here. A name that does not resolve (yet)
    gives an empty list.
    """
    check(endpoint)
    if endpoint.startswith(IPC):
        path = endpoint.removeprefix(IPC)
        return [IPC + found for found in sorted(glob.glob(path))] if glob.has_magic(path) else [endpoint]
    host, _, port = endpoint.removeprefix(TCP).rpartition(":")
    try:
        records = socket.getaddrinfo(host.strip("[]"), int(port), type=socket.SOCK_STREAM)
    except (OSError, ValueError):
        return []
    hosts = sorted({str(record[4][0]) for record in records})
    return [f"{TCP}[{found}]:{port}" if ":" in found else f"{TCP}{found}:{port}" for found in hosts]
