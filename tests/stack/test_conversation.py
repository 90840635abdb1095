"""What the stack is for: speech in, speech out, while its processes scale and are killed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import wave
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from antiphon.waiting import wait_until
from protocol.control import fetch_snapshot
from tests.real_stack import EXAMPLES, RealStack
from tests.wer import word_errors

UTTERANCES = sorted(EXAMPLES.glob("*.wav"))
HELLO = UTTERANCES[0]
MINIMAL = EXAMPLES.parent.parent / "scripts" / "ingest_minimal.py"


def send(stack: RealStack, *arguments: str | Path) -> list[dict[str, Any]]:
    """The turns of `antiphon send --json`, all of which must have been answered."""
    turns: list[dict[str, Any]] = json.loads(stack.do("send", "--json", *arguments, timeout_s=100.0))["turns"]
    return turns


@pytest.mark.timeout(120)
def test_every_shipped_utterance_is_understood_and_answered_aloud(stack: RealStack, tmp_path: Path) -> None:
    out = tmp_path / "reply.wav"
    turns = send(stack, "--pace", "realtime", "--out", out, *UTTERANCES)
    assert [turn["file"] for turn in turns] == [str(path) for path in UTTERANCES]
    errors = words = 0
    for turn, path in zip(turns, UTTERANCES, strict=True):
        wrong, said = word_errors(path.with_suffix(".txt").read_text(), turn["heard"])
        errors, words = errors + wrong, words + said
        assert turn["outcome"] == "completed"
        assert turn["audio_ms"] > 300
        assert turn["answered"]
        assert turn["first_audio_ms"] > 0
        stages = turn["stages"]
        parts = [stages[name] for name in ("endpointing_ms", "stt_ms", "llm_ms", "tts_ms")]
        assert sum(parts) == pytest.approx(stages["total_ms"], abs=0.5)
    assert errors / words <= 0.15, f"{errors} of {words} words are wrong"
    with wave.open(str(out)) as file:
        samples = np.frombuffer(file.readframes(file.getnframes()), dtype="<i2")
        spoken_ms = file.getnframes() / file.getframerate() * 1000
    assert np.abs(samples.astype(np.int32)).max() > 3_000
    assert spoken_ms == pytest.approx(sum(turn["audio_ms"] for turn in turns), rel=0.02)


def test_the_minimal_client_holds_a_conversation(stack: RealStack, tmp_path: Path) -> None:
    reply = tmp_path / "reply.wav"
    address = stack.run_dir.endpoint("orchestrator-01", "ingest")
    done = subprocess.run(
        [sys.executable, MINIMAL, HELLO, address],
        cwd=tmp_path,  # where it writes the reply
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("user: hello can you hear me\nagent: ")
    with wave.open(str(reply)) as file:
        assert any(file.readframes(file.getnframes()))


@pytest.mark.chaos
def test_a_conversation_goes_on_while_the_stack_is_scaled_and_no_other_pid_changes(stack: RealStack) -> None:
    before = stack.pids()
    talking = stack.start("send", "--json", *UTTERANCES[:3])
    try:
        assert wait_until(lambda: len(stack.status()["sessions"]) == 1, 10.0)
        stack.do("scale", "stt=4", "vad=1")
        after = stack.pids()
        assert {name for name in after if name.startswith("stt")} == {"stt-01", "stt-02", "stt-03", "stt-04"}
        assert len([name for name in after if name.startswith("vad")]) == 1
        assert all(before[name] == pid for name, pid in after.items() if name in before)
        said, told = talking.communicate(timeout=50)
    finally:
        talking.kill()
        stack.do("scale", "stt=2", "vad=2")
    assert talking.returncode == 0, told
    assert [turn["outcome"] for turn in json.loads(said)["turns"]] == ["completed"] * 3


@pytest.mark.chaos
def test_a_killed_stt_node_is_gone_within_a_second_and_the_next_turn_works(stack: RealStack) -> None:
    victim = stack.pids()["stt-01"]
    control = stack.run_dir.endpoint("orchestrator-01", "control")
    os.kill(victim, signal.SIGKILL)
    assert wait_until(lambda: victim not in [node.pid for node in fetch_snapshot(control).nodes], 1.0, every_s=0.01)
    assert send(stack, HELLO)[0]["heard"] == "hello can you hear me"
    assert wait_until(lambda: not stack.status()["missing"], 20.0), stack.logs()
    assert stack.pids()["stt-01"] != victim


def test_no_slot_stays_taken_when_conversations_have_ended(stack: RealStack) -> None:
    send(stack, "--pace", "fast", HELLO, "--text", "bye")
    assert wait_until(lambda: all(node["used"] == 0 for node in stack.status()["nodes"]), 5.0), stack.status()["nodes"]
