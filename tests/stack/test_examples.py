"""The examples as a user runs them: an orchestrator with real nodes, the rule engine for an LLM, eSpeak's voice.

One orchestrator serves all of them, on the nodes of the shared stack: the client's metadata say which example it wants.
"""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import subprocess
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from protocol.client import Client
from protocol.control import fetch_snapshot
from protocol.errors import AntiphonError
from protocol.ingest import Audio, Closed, Transcript
from tests.real_stack import COMMAND, EXAMPLES, RealStack
from tests.shipped_examples import FOLDER
from tests.support import expect_process, forget_process, run_async, wait_until

ANY = f"""
from orchestrator import SessionInfo, VoiceAgent
from orchestrator.factory import load_factory


async def agent(session: SessionInfo) -> VoiceAgent:
    return await load_factory("{FOLDER}/" + session.metadata["example"] + ".py")(session)
"""
SERVICES = {"vad", "stt", "llm", "tts"}


@dataclass
class Orchestrator:
    """One that runs beside that of the stack."""

    stack: RealStack
    process: subprocess.Popen[bytes]
    name: str
    database: Path  # of hooks.py
    log: Path

    @property
    def ingest(self) -> str:
        return self.stack.run_dir.endpoint(self.name, "ingest")

    def send(self, example: str, *arguments: str | Path) -> list[dict[str, Any]]:
        """The turns of `antiphon send --json`, all of which must have been answered."""
        command = ("send", "--json", "--pace", "fast", "--connect", self.ingest, "--metadata", f"example={example}")
        turns: list[dict[str, Any]] = json.loads(self.stack.do(*command, *arguments))["turns"]
        return turns

    def write(self, example: str, *texts: str, user: str = "") -> list[str]:
        """What is answered to each of these, in one conversation. The first answer may begin with some of the greeting,
        which the first text cuts off: see `greeted`.
        """
        turns = self.send(example, "--user", user, *(part for text in texts for part in ("--text", text)))
        assert [turn["heard"] for turn in turns] == list(texts)
        return [turn["answered"] for turn in turns]

    def rows(self, sql: str) -> list[Any]:
        """What is in the database of hooks.py."""
        with closing(sqlite3.connect(self.database)) as database:
            return database.execute(sql).fetchall()

    def serves(self) -> bool:
        """Whether a node of each service has found it."""
        try:
            snapshot = fetch_snapshot(self.stack.run_dir.endpoint(self.name, "control"))
        except AntiphonError:
            return False
        return {node.service for node in snapshot.nodes if node.state == "ready"} == SERVICES


@contextmanager
def orchestrator(stack: RealStack, folder: Path, name: str, *options: str) -> Iterator[Orchestrator]:
    """One that serves every example. In the end it is stopped, if it has not left."""
    (folder / "any_example.py").write_text(ANY)
    log, database = folder / "log", folder / "shop.sqlite"
    with open(log, "wb") as output:
        process = subprocess.Popen(
            [*COMMAND, "orchestrator", "--agent", str(folder / "any_example.py"), "--name", name, *options],
            env=stack.environment(SHOP_DATABASE=str(database)),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    expect_process(process.pid)
    running = Orchestrator(stack, process, name, database, log)
    try:
        wait_until(lambda: running.serves() or process.poll() is not None, 15.0, f"{name} ready")
        assert process.poll() is None, log.read_text()
        yield running
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
        try:
            process.wait(timeout=20.0)
        except subprocess.TimeoutExpired:
            process.kill()
            raise
        finally:
            process.wait()
            forget_process(process.pid)


def greeted(answered: list[str], greeting: str) -> list[str]:
    """The answers without what was heard of the greeting before the first of them."""
    words = greeting.split()
    first = answered[0].split()
    heard = next(at for at in range(len(words), -1, -1) if first[:at] == words[:at])
    return [" ".join(first[heard:]), *answered[1:]]


@pytest.fixture(scope="module")
def examples(stack: RealStack, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Orchestrator]:
    with orchestrator(stack, tmp_path_factory.mktemp("examples"), "examples-01", "--drain-s", "0") as running:
        yield running
        assert "Traceback" not in running.log.read_text()


def test_echo_repeats_what_it_was_told_in_writing_and_aloud(examples: Orchestrator) -> None:
    aloud, written = examples.send("echo", EXAMPLES / "01-slt-hello.wav", "--text", "Good morning.")
    assert aloud["answered"] == "You said: hello can you hear me"
    assert written["answered"] == "You said: Good morning."
    assert aloud["audio_ms"] > 1_000


def test_handoff_goes_to_echo_and_back(examples: Orchestrator) -> None:
    told = "I want to talk to Echo", "Hello.", "Let me talk to Alloy", "When does the kitchen open?"
    assert greeted(examples.write("handoff", *told), "This is Alloy.") == [
        "I am transferring you to Echo. This is Echo.",
        "Hello! How can I help you?",
        "I am transferring you to Alloy. This is Alloy.",
        "The kitchen opens at noon.",
    ]


def test_collect_order_asks_one_thing_after_the_other(examples: Orchestrator) -> None:
    told = (
        "I would like to order",
        "A cappuccino, please.",
        "A large one.",
        "No.",
        "Tea.",
        "small",
        "Yes, that's correct.",
    )
    answered = examples.write("collect_order", *told, "When does the bar close?")
    assert greeted(answered, "Welcome to the coffee bar.") == [
        "What would you like: espresso, cappuccino or tea?",
        "Which size of cappuccino: small, medium or large?",
        "One large cappuccino. Is the order correct?",
        "Then let us begin again. What would you like: espresso, cappuccino or tea?",
        "Which size of tea: small, medium or large?",
        "One small tea. Is the order correct?",
        "Your small tea will be ready in five minutes.",
        "The bar closes at six.",
    ]


def test_collect_order_can_be_left(examples: Orchestrator) -> None:
    answered = examples.write("collect_order", "I would like to order", "An espresso.", "Cancel the order.")
    assert answered[-1] == "I am sorry, that did not work: the order was cancelled."


def test_booking_says_something_while_it_searches_and_explains_what_it_cannot_do(examples: Orchestrator) -> None:
    told = "Find a table for four on Friday", "What is on the menu on Friday?", "Find a table for twelve on Monday"
    turns = examples.send("booking", *(part for text in told for part in ("--text", text)))
    searching = "One moment, I am looking through the reservations."
    greeting = "Green Garden restaurant. When would you like to come?"
    assert greeted([turn["answered"] for turn in turns], greeting) == [
        f"{searching} There is a table for 4 on Friday at half past seven.",
        "On Friday there is grilled trout.",
        "I am sorry, that did not work: our largest table is for 8.",
    ]
    assert turns[0]["first_audio_ms"] < 1_500  # of a search that takes three seconds


def test_hooks_greet_a_known_caller_and_log_each_turn(examples: Orchestrator) -> None:
    told = "What does the tea cost?", "How long is the shop open?"
    for greeting in ("Welcome to the tea shop, Ann!", "Welcome to the tea shop again, Ann!"):
        answered = examples.write("hooks", *told, user="Ann")
        assert greeted(answered, greeting) == ["The tea costs four pounds.", "The shop is open until seven."]
    wait_until(lambda: examples.rows("SELECT visits FROM users WHERE name = 'Ann'") == [(2,)], 5.0, "both visits")
    logged = examples.rows("SELECT turn, asked, ok FROM turns ORDER BY rowid")
    assert logged == [(1, told[0], 1), (2, told[1], 1)] * 2


def test_pipeline_changes_what_is_heard_answered_shown_and_spoken(examples: Orchestrator) -> None:
    spoken = EXAMPLES / "06-awb-appointment.wav"
    told = "--text", "What are your opening hours?", "--text", "Damn, is SQL hard"
    heard, canned, masked = examples.send("pipeline", spoken, *told)
    assert heard["heard"].endswith("next Monday")
    assert canned["answered"] == "We are open from nine to five, but for Mondays."
    assert masked["answered"] == "You said: “****, is SQL hard” I know nothing about that."


@pytest.mark.chaos
def test_an_orchestrator_that_is_stopped_leaves_its_tasks_and_says_goodbye(stack: RealStack, tmp_path: Path) -> None:
    # SIGTERM: on_exit runs, what it says is heard to its end, then `closed` comes, and the process leaves with 0.
    async def hold(running: Orchestrator) -> list[object]:
        async with await Client.connect(running.ingest, metadata={"example": "hooks"}) as client:
            await client.send_text("What does the tea cost?")
            events = [event async for event in _until_stopped(client, running.process)]
        return events

    with orchestrator(stack, tmp_path, "examples-02", "--drain-s", "0.2") as running:
        events = run_async(hold(running))
        assert running.process.wait(timeout=10.0) == 0
        assert running.rows("SELECT turns FROM visits") == [(1,)]
        assert "Traceback" not in running.log.read_text()
    goodbye = next(at for at, event in enumerate(events) if _final(event) == "I must go now. Goodbye!")
    assert any(isinstance(event, Audio) and event.pcm for event in events[:goodbye])
    assert isinstance(events[-1], Closed)
    assert events[-1].reason == "the orchestrator is shutting down"


async def _until_stopped(client: Client, process: subprocess.Popen[bytes]) -> Any:
    """What comes; the process is told to leave when the question has been answered."""
    async for event in client:
        if _final(event) == "The tea costs four pounds.":
            process.send_signal(signal.SIGTERM)
        yield event


def _final(event: object) -> str:
    return event.text if isinstance(event, Transcript) and event.final and event.speaker == "agent" else ""


@pytest.mark.chaos
def test_a_client_that_vanishes_leaves_no_task_behind(examples: Orchestrator) -> None:
    # The client is lost: on_exit runs all the same, and no goodbye is said to nobody.
    control = examples.stack.run_dir.endpoint(examples.name, "control")
    told = "--user", "Bob", "--metadata", "example=hooks", "--text", "What does the tea cost?"
    client = examples.stack.start("send", "--connect", examples.ingest, *told)
    try:
        wait_until(lambda: [one.agent for one in fetch_snapshot(control).sessions] == ["speaking"], 10.0, "speech")
        os.kill(client.pid, signal.SIGKILL)
    finally:
        client.kill()
        client.communicate(timeout=10.0)
    wait_until(lambda: examples.rows("SELECT visits FROM users WHERE name = 'Bob'") == [(1,)], 10.0, "on_exit")
    wait_until(lambda: fetch_snapshot(control).sessions == [], 2.0, "the end of the session")
