"""Finding an orchestrator: which addresses there are now, in what order they are tried, and how long each may take.

Knows nothing of what a session is used for; it opens one and hands the line over.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Sequence

from protocol.endpoint import IPC, expand
from protocol.errors import ConnectionLost, RemoteError
from protocol.ingest import Open
from protocol.line import Line

CONNECT_S = 0.5  # for an address to take the connection, before another one is tried
ANSWER_S = 4.0  # for `open` to be answered, where there are others to try: engines are checked for up to 3 s
REDIAL_S = 0.1  # before all addresses are tried again


async def dial(
    endpoints: Sequence[str], opening: Open, timeout_s: float, *, retry_refusals: bool, last: str = ""
) -> Line:
    """A line whose session is open, at a random address; `last` (which was lost) is only tried after the others.

    With `retry_refusals`, a retryable refusal is a reason to go on trying. Raises `ConnectionLost` after `timeout_s`,
    `RemoteError` for a refusal, `EndpointError`, `VersionMismatch`. A cancellation leaves nothing open.
    """
    deadline = time.monotonic() + timeout_s
    trouble: Exception | str = "there is no such address now"
    while True:
        addresses = await _addresses(endpoints, last)
        for address in addresses:
            left_s = max(0.0, deadline - time.monotonic())
            answer_s = left_s if len(addresses) == 1 else min(ANSWER_S, left_s)
            try:
                return await _open(address, opening, min(CONNECT_S, left_s), answer_s)
            except ConnectionLost as error:
                trouble = error
            except RemoteError as error:
                if not (retry_refusals and error.category == "retryable"):
                    raise
                trouble = error
        if time.monotonic() + REDIAL_S > deadline:
            raise ConnectionLost(
                f"no orchestrator opened a session at {', '.join(endpoints)} within {timeout_s:g} s: {trouble}. "
                "Is the stack running? `antiphon up` starts it"
            )
        await asyncio.sleep(REDIAL_S)


async def _open(address: str, opening: Open, connect_s: float, answer_s: float) -> Line:
    line = Line(address)
    try:
        await line.open(opening, connect_s, answer_s)
    except BaseException:
        line.close()
        raise
    return line


async def _addresses(endpoints: Sequence[str], last: str) -> list[str]:
    found: list[str] = []
    for endpoint in endpoints:
        # A name is looked up in a thread: the system's resolver blocks.
        found += expand(endpoint) if endpoint.startswith(IPC) else await asyncio.to_thread(expand, endpoint)
    found = list(dict.fromkeys(found))
    random.shuffle(found)
    return sorted(found, key=lambda address: address == last)
