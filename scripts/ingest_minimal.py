#!/usr/bin/env python3
"""The smallest client: speaks a WAV file to Antiphon with pyzmq and msgpack alone; see docs/protocol.md.

python scripts/ingest_minimal.py question.wav [ADDRESS]     writes the answer to reply.wav
"""

import itertools
import pathlib
import secrets
import sys
import time
import wave

import msgpack
import zmq

path, *address = sys.argv[1:] or sys.exit(__doc__)
default = f"ipc://{pathlib.Path.home()}/.local/state/antiphon/sockets/orchestrator-01.ingest"
with wave.open(path) as question:  # 16-bit mono, 8 to 48 kHz
    rate, pcm = question.getframerate(), question.readframes(question.getnframes())
socket = zmq.Context().socket(zmq.DEALER)
socket.connect(address[0] if address else default)
session, sequence, generation = secrets.token_hex(16), itertools.count(), 0


def send(kind, *fields):
    socket.send(msgpack.packb([kind, session, generation, next(sequence), *fields]))


send("open", [1, 0], [rate, 1, "pcm_s16le"], [rate, 1, "pcm_s16le"])
frame, position, reply, answered, over, due = rate // 50 * 2, 0, b"", False, False, None
give_up = time.monotonic() + len(pcm) / (rate * 2) + 30
while not over and not (answered and position >= len(pcm)) and time.monotonic() < give_up:
    if due is not None and time.monotonic() >= due:  # 20 ms of the file, and silence after it, at the pace of speech
        send("audio", pcm[position : position + frame].ljust(frame, b"\0"))
        position, due = position + frame, due + 0.02
    if not socket.poll(20 if due is None else max(0, (due - time.monotonic()) * 1000)):
        continue
    kind, _, newest, _, *fields = msgpack.unpackb(socket.recv())
    if kind == "audio" and newest >= generation:  # what is older was interrupted
        reply += fields[0]
    elif kind == "opened":
        due = time.monotonic()
    elif kind == "transcript" and fields[3]:
        print(f"{fields[1]}: {fields[2]}")
    elif kind == "state" and fields[1] == "speaking":
        answered = False
    elif kind in ("error", "closed"):
        print(kind, *fields, file=sys.stderr)
        over = kind == "closed" or due is None
    answered = answered or kind == "metrics"  # the turn has ended
    generation = max(generation, newest)
send("close")
with wave.open("reply.wav", "wb") as file:
    file.setparams((1, 2, rate, 0, "NONE", ""))
    file.writeframes(reply)
socket.close(linger=500)
sys.exit(0 if answered else 1)
