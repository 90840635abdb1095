#!/usr/bin/env python3
"""What our socket loop costs beside a bare one: round trips and pipelined throughput of an echo, in one run.

    python benchmarks/hop.py [--rounds 15] [--messages 20000] [--transport ipc|tcp] [--json]

Two processes each: a ROUTER that echoes 700-byte messages, and the same load generator (a blocking DEALER) for both.

bare: pyzmq's blocking recv and send, nothing else. It is the least that Python can do.
ours: `protocol.sockets.RouterSocket` under uvloop, as the orchestrator runs it: it never blocks, never waits while it
    sends, gives timers their turn, and checks how many frames a message has.

The servers take turns, round by round, so that whatever else the machine does falls on both. Medians over the rounds.
Aims: throughput at least 0.8 of the bare one's, p50 of a round trip at most 1.5 times.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import statistics
import tempfile
import time
from collections import deque
from multiprocessing.synchronize import Event
from typing import Any

import uvloop
import zmq

SIZE = 700  # bytes: a frame of 20 ms at 16 kHz and its head
OUTSTANDING = 64  # messages on their way at once, when throughput is measured
ROUND_TRIPS = 200  # in a row; short, for where the system puts the processes decides, and it changes its mind
STRETCHES = 10  # of them in a round, in turns


def serve_bare(address: str, ready: Event) -> None:
    """Echo with blocking calls."""
    socket = zmq.Context().socket(zmq.ROUTER)
    socket.bind(address)
    ready.set()
    while True:
        identity = socket.recv()
        blob = socket.recv()
        socket.send(identity, zmq.SNDMORE)
        socket.send(blob)


def serve_ours(address: str, ready: Event) -> None:
    """Echo with the project's socket loop."""

    async def serve() -> None:
        import asyncio

        from protocol.sockets import RouterSocket, new_context

        def echo(identity: bytes, blob: bytes) -> None:
            router.send(identity, blob)

        router = RouterSocket(
            new_context(),
            echo,
            drop_bytes=1 << 20,
            on_bad_frames=lambda identity, frames: None,
        )
        router.bind(address)
        router.start()
        ready.set()
        await asyncio.Event().wait()

    uvloop.run(serve())


SERVERS = {"bare": serve_bare, "ours": serve_ours}


def dial(context: zmq.Context[Any], address: str) -> zmq.Socket[bytes]:
    """A blocking DEALER, after its first echo."""
    socket = context.socket(zmq.DEALER)
    socket.linger = 0
    socket.connect(address)
    for _ in range(200):
        socket.send(bytes(SIZE))
        socket.recv()
    return socket


def round_trips(socket: zmq.Socket[bytes]) -> list[float]:
    """Microseconds of each."""
    blob, times = bytes(SIZE), []
    for _ in range(ROUND_TRIPS):
        begin = time.perf_counter()
        socket.send(blob)
        socket.recv()
        times.append((time.perf_counter() - begin) * 1e6)
    return times


def throughput(socket: zmq.Socket[bytes], messages: int) -> float:
    """Echoes a second, with `OUTSTANDING` on their way."""
    blob = bytes(SIZE)
    begin = time.perf_counter()
    for _ in range(OUTSTANDING):
        socket.send(blob)
    for _ in range(messages - OUTSTANDING):
        socket.recv()
        socket.send(blob)
    for _ in range(OUTSTANDING):
        socket.recv()
    return messages / (time.perf_counter() - begin)


def measure(addresses: dict[str, str], rounds: int, messages: int) -> dict[str, dict[str, float]]:
    """Both servers, round by round."""
    context = zmq.Context()
    sockets = {name: dial(context, address) for name, address in addresses.items()}
    p50: dict[str, deque[float]] = {name: deque() for name in sockets}
    p99: dict[str, deque[float]] = {name: deque() for name in sockets}
    rate: dict[str, deque[float]] = {name: deque() for name in sockets}
    for turn in range(rounds):
        order = list(sockets) if turn % 2 else list(reversed(sockets))
        times: dict[str, list[float]] = {name: [] for name in sockets}
        for _ in range(STRETCHES):
            for name in order:
                times[name] += round_trips(sockets[name])
        for name in order:
            cuts = statistics.quantiles(times[name], n=100)
            p50[name].append(cuts[49])
            p99[name].append(cuts[98])
            rate[name].append(throughput(sockets[name], messages))
    context.destroy(0)
    return {
        name: {
            "rtt_p50_us": round(statistics.median(p50[name]), 1),
            "rtt_p99_us": round(statistics.median(p99[name]), 1),
            "echoes_per_s": round(statistics.median(rate[name])),
        }
        for name in sockets
    }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--messages", type=int, default=20_000)
    parser.add_argument("--transport", choices=["ipc", "tcp"], default="ipc")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    spawn = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory(prefix="hop") as folder:
        addresses, servers = {}, []
        try:
            for number, (name, serve) in enumerate(SERVERS.items()):
                port = 20_000 + os.getpid() % 20_000 + number
                address = f"ipc://{folder}/{name}" if arguments.transport == "ipc" else f"tcp://127.0.0.1:{port}"
                ready = spawn.Event()
                server = spawn.Process(target=serve, args=(address, ready), daemon=True)
                server.start()
                servers.append(server)
                assert ready.wait(10), f"the {name} server did not start"
                addresses[name] = address
            found = measure(addresses, arguments.rounds, arguments.messages)
        finally:
            for server in servers:
                server.kill()
                server.join()
    ratios = {
        "throughput, ours / bare": round(found["ours"]["echoes_per_s"] / found["bare"]["echoes_per_s"], 2),
        "rtt p50, ours / bare": round(found["ours"]["rtt_p50_us"] / found["bare"]["rtt_p50_us"], 2),
    }
    if arguments.json:
        print(json.dumps({"transport": arguments.transport, **found, "ratios": ratios}, indent=2))
        return
    print(f"{arguments.transport}      RTT p50    RTT p99      echoes/s")
    for name, figures in found.items():
        print(
            f"{name:5} {figures['rtt_p50_us']:8.0f} us {figures['rtt_p99_us']:8.0f} us {figures['echoes_per_s']:12,.0f}"
        )
    for name, value in ratios.items():
        print(f"{name}: {value}")


if __name__ == "__main__":
    main()
