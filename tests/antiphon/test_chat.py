"""`antiphon chat` with real processes: through a pipe, and at a terminal."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import re
import select
import signal
import subprocess
import termios
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from io import StringIO
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from click.testing import CliRunner

from antiphon import processes
from antiphon.chat_view import ChatView
from antiphon.main import main
from orchestrator.chat import FunctionCall, FunctionOutput
from tests.real_stack import COMMAND
from tests.support import wait_until

DESK = """
import asyncio
from orchestrator import AgentTask, CallContext, VoiceAgent, ai_function
from services.llm import rule


class Billing(AgentTask):
    async def on_enter(self):
        self.agent.say("Billing here.")


class Broken(AgentTask):
    async def on_enter(self):
        raise ValueError("no database")


class Desk(AgentTask):
    async def on_enter(self):
        self.agent.say("Good morning.")

    async def on_exit(self):
        print("the desk is left")

    @ai_function
    async def book_table(self, day: str):
        \"\"\"Book a table.

        Args:
            day: On which day.
        \"\"\"
        print("looking for", day)
        return "booked"

    @ai_function
    async def crash_now(self):
        \"\"\"Crash now.\"\"\"
        return 1 / 0

    @ai_function
    async def call_director(self):
        \"\"\"Call the director.\"\"\"
        return Broken(instructions="")

    @ai_function
    async def transfer_to_billing(self, context: CallContext):
        \"\"\"Transfer to billing.\"\"\"
        return Billing(instructions="You are billing."), "One moment."


def agent(session):
    if session.user_id:
        print(session.user_id, "from", session.metadata["city"])
    return VoiceAgent(
        task=Desk(instructions="The house is blue and old and full of books."),
        llm=rule.LLM(),
    )
"""

UNKNOWN = """
from protocol.engine import EngineSpec


def unknown():
    return EngineSpec("llm", "gpt")
"""

# Says something when a file is there: the test decides when.
LATER = """
async def later(agent):
    import pathlib
    while not pathlib.Path("FLAG").exists():
        await asyncio.sleep(0.01)
    agent.say("It is late.")
"""

FRAGILE = """
import os
from typing import ClassVar
from orchestrator import VoiceAgent
from protocol.engine import EngineOptions, Service
from services.engine import LlmEngine, text_chunk


class LLM(EngineOptions, frozen=True, kw_only=True):
    service: ClassVar[Service] = "llm"
    engine: ClassVar[str] = "fragile"


class Engine(LlmEngine[LLM]):
    options_type = LLM
    default_slots = 1

    async def generate(self, options, chat, functions):
        if chat[-1].text == "fail":
            raise ValueError("an engine's own")
        if chat[-1].text == "die":
            os.kill(os.getpid(), 9)
        yield text_chunk(chat[-1].text.upper())


def agent(session):
    return VoiceAgent(instructions="", llm=LLM())
"""


@pytest.fixture
def desk(tmp_path: Path) -> Path:
    return written(tmp_path / "desk.py", DESK)


def written(file: Path, code: str) -> Path:
    file.parent.mkdir(exist_ok=True)
    file.write_text(code)
    return file


def chat(file: Path | str, said: str, *options: str) -> subprocess.CompletedProcess[str]:
    """A whole chat through a pipe. It leaves no files behind."""
    with TemporaryDirectory(prefix="ap-") as temporary:
        done = subprocess.run(
            [*COMMAND, "chat", str(file), *options],
            input=said,
            capture_output=True,
            text=True,
            timeout=30,
            env=environment(TMPDIR=temporary),
        )
        assert os.listdir(temporary) == []
    return done


def environment(**more: str) -> dict[str, str]:
    """That of who runs the tests, without settings of their own."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("ANTIPHON_")}
    return {**kept, "TERM": "xterm", **more}


def in_order(text: str, *parts: str) -> None:
    """Each part is there, after the one before it."""
    at = 0
    for part in parts:
        found = text.find(part, at)
        assert found >= 0, f"{part!r} is not in {text[at:]!r}"
        at = found + len(part)


# --- through a pipe ---------------------------------------------------------------------------------------------------


def test_a_line_from_a_pipe_is_answered_and_the_chat_ends_with_the_pipe(desk: Path) -> None:
    done = chat(desk, "Is the house blue?")
    assert re.sub(r"\d+ ms", "N ms", done.stdout) == (
        "Desk: Good morning.\n"
        "\n"
        "You: Is the house blue?\n"
        "Desk: The house is blue and old and full of books.\n"
        "  N ms to the first token\n"
        "the desk is left\n"
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_functions_handoffs_and_what_fails_are_shown_and_the_chat_goes_on(desk: Path) -> None:
    done = chat(desk, "Book a table for Monday\n\nCrash now\nCall the director\nTransfer to billing\n/quit\nnot said\n")
    in_order(
        done.stdout,
        'You: Book a table for Monday\n  → book_table(day="Monday")\nlooking for Monday\n  ← "booked"\nDesk: booked.\n',
        "You: Crash now\n  → crash_now()\n  ← ",
        "You: Call the director\n  → call_director()\n  ← ",
        "on_enter of Broken raised ValueError: no database",
        "  → transfer_to_billing()\nDesk: One moment.\n— Desk → Billing —\nBilling: Billing here.\n",
    )
    assert "not said" not in done.stdout
    # Tracebacks go to standard error, without our own frames.
    in_order(done.stderr, "the function crash_now of Desk failed", "return 1 / 0", "ZeroDivisionError", "no database")
    assert "orchestrator/" not in done.stderr
    assert done.returncode == 0


def test_with_json_each_thing_that_happens_is_an_object_on_a_line(desk: Path) -> None:
    said = "Book a table for Monday\nTransfer to billing\n"
    done = chat(desk, said, "--json", "--user", "Ann", "--metadata", "city=Rome")
    told = [json.loads(line) for line in done.stdout.splitlines()]
    assert [one["kind"] for one in told] == [
        *("handoff", "message"),
        *("message", "function_call", "function_output", "message"),
        *("message", "function_call", "message", "handoff", "message", "function_output"),
        "closed",
    ]
    assert told[0] == {"kind": "handoff", "from_task": None, "to_task": "Desk"}
    assert told[1] == {
        "kind": "message", "role": "assistant", "task": "Desk", "text": "Good morning.", "interrupted": False
    }  # fmt: skip
    assert told[2] == {"kind": "message", "role": "user", "text": "Book a table for Monday"}
    assert (told[3]["name"], told[3]["arguments"]) == ("book_table", {"day": "Monday"})
    assert (told[4]["output"], told[4]["is_error"], told[4]["call_id"]) == ("booked", False, told[3]["call_id"])
    assert told[9] == {"kind": "handoff", "from_task": "Desk", "to_task": "Billing"}
    assert told[-1] == {"kind": "closed", "reason": "the user has left"}
    # What the agent prints itself is no JSON.
    assert done.stderr.splitlines() == ["Ann from Rome", "looking for Monday", "the desk is left"]


def test_an_engine_of_the_users_own_is_started_and_when_it_dies_started_again(tmp_path: Path) -> None:
    written(tmp_path / "parts" / "fragile.py", FRAGILE)
    file = written(tmp_path / "my_agent.py", "from parts.fragile import agent\n")
    done = chat(file, "hello\nfail\ndie\nagain\n")
    in_order(
        done.stdout,
        "You: hello\nAgent: HELLO\n",
        "You: fail\nError: the engine failed: ValueError: an engine's own\n",
        "You: die\nError: llm-1 (llm/fragile) was lost while it worked\n",
        "You: again\nAgent: AGAIN\n",
    )
    in_order(done.stderr, "llm-1: ValueError: an engine's own", "the process of llm/fragile has ended (exit code -9)")
    assert done.returncode == 1  # a line was not answered


def test_an_agent_that_cannot_begin_says_why_in_one_line(tmp_path: Path) -> None:
    code = DESK.replace("Desk(instructions", "Broken(instructions")
    done = chat(written(tmp_path / "my_agent.py", code), "hello\n")
    told = "Broken could not be entered: on_enter of Broken raised ValueError: no database"
    assert done.stdout == f"Error: {told}\nThe conversation has ended.\n"
    assert done.returncode == 1


def test_an_engine_that_there_is_not_is_named_with_those_that_there_are(tmp_path: Path) -> None:
    code = DESK.replace("llm=rule.LLM(", "llm=unknown(").replace("import rule", "import rule\n" + UNKNOWN)
    done = chat(written(tmp_path / "my_agent.py", code), "hello\n")
    assert re.fullmatch(
        r"antiphon: the process of llm/gpt does not start: there is no engine llm/gpt; installed are .*rule.*\n",
        done.stderr,
    )
    assert (done.returncode, done.stdout) == (78, "")


BEFORE_THE_CHAT = [
    ("import no_such_library", 78, "my_agent needs the module 'no_such_library', which is not installed"),
    ("1 / 0", 78, "my_agent failed while it was imported: ZeroDivisionError: division by zero ("),
    ("def agent(session):\n    raise ValueError('no account')", 1, "raised ValueError: no account"),
]


def test_code_that_fails_before_the_chat_is_told_in_the_last_line(tmp_path: Path) -> None:
    files = [written(tmp_path / str(n) / "my_agent.py", code) for n, (code, _, _) in enumerate(BEFORE_THE_CHAT)]
    with ThreadPoolExecutor() as several:
        chats = list(several.map(lambda file: chat(file, "hello\n"), files))
    for done, (_, exit_code, told) in zip(chats, BEFORE_THE_CHAT, strict=True):
        last = done.stderr.splitlines()[-1]
        assert last.startswith("antiphon: ")
        assert told in last
        assert (done.returncode, done.stdout) == (exit_code, "")


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("nowhere.py", "there is no file"),
        (".", "is a folder; name the Python file in it"),
        ("no_such_module", "there is no module 'no_such_module'"),
        ("my_agent:", "is neither FILE.py[:FACTORY] nor MODULE[:FACTORY]"),
    ],
)
def test_a_wrong_name_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, reason: str) -> None:
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(main, ["chat", name])
    assert done.exit_code == 78
    assert reason in done.output


# --- at a terminal ----------------------------------------------------------------------------------------------------


class Terminal:
    """A chat at a pseudo terminal, and all that was shown there."""

    def __init__(self, file: Path) -> None:
        self._temporary = TemporaryDirectory(prefix="ap-")
        self._screen, side = pty.openpty()
        self.before = termios.tcgetattr(side)
        self._side = side
        self.process = subprocess.Popen(
            [*COMMAND, "chat", str(file)],
            stdin=side,
            stdout=side,
            stderr=side,
            env=environment(TMPDIR=self._temporary.name),
            start_new_session=True,
            preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),  # noqa: PLW1509  # Ctrl-C is for this process
        )
        self._raw = b""
        self.shown = ""  # without what only moves the cursor or paints
        self._read = 0  # of `shown`, what a test has looked at

    def shows(self, text: str, timeout_s: float = 15.0) -> str:
        """Wait until this is shown, after what was looked at last; returns what is between."""
        deadline = time.monotonic() + timeout_s
        while (found := self.shown.find(text, self._read)) < 0:
            assert time.monotonic() < deadline, f"waited for {text!r}: {self.shown[self._read :]!r}"
            self._take(0.05)
        between, self._read = self.shown[self._read : found], found + len(text)
        return between

    def types(self, text: str) -> None:
        os.write(self._screen, text.encode())

    def ends(self) -> int:
        """Wait until the chat has ended: then the terminal is as it was, and no file is left. Returns the exit code."""
        wait_until(lambda: self._take(0.01) or self.process.poll() is not None, 15.0, "the end of the chat")
        self._take(0.0)
        assert termios.tcgetattr(self._side) == self.before
        assert os.listdir(self._temporary.name) == []
        return self.process.returncode

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait(5)
        os.close(self._side)
        os.close(self._screen)
        self._temporary.cleanup()

    def _take(self, seconds: float) -> None:
        while select.select([self._screen], [], [], seconds)[0]:
            self._raw += os.read(self._screen, 65_536)
        self.shown = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]|\r", "", self._raw.decode(errors="replace"))


@contextmanager
def terminal(file: Path) -> Iterator[Terminal]:
    found = Terminal(file)
    try:
        yield found
    finally:
        found.close()


def test_ctrl_c_interrupts_what_is_being_written_and_twice_ends_the_chat(tmp_path: Path) -> None:
    slow = DESK.replace("rule.LLM()", "rule.LLM(delay_ms=1_000)")
    with terminal(written(tmp_path / "desk.py", slow)) as chat:
        chat.shows("Desk: Good morning.\n\nYou: ")
        chat.types("Is the house blau\x7f\x7fue?\r")
        chat.shows("Desk: The")
        chat.types("\x03")
        assert "books" not in chat.shows(" (interrupted)\n")
        chat.shows("\nYou: ")
        chat.types("\x1b[A\r")  # the last line again
        chat.shows("Is the house blue?")
        chat.shows("Desk: The")
        chat.types("\x03")
        chat.shows(" (interrupted)\n")
        chat.types("\x03")
        chat.shows("the desk is left")
        assert chat.ends() == 130
        assert "Traceback" not in chat.shown


def test_ctrl_c_at_the_prompt_says_what_it_does_and_ctrl_d_ends_the_chat(desk: Path) -> None:
    with terminal(desk) as chat:
        chat.shows("Ctrl-C twice end the chat.\n")
        chat.shows("\nYou: ")
        chat.types("\x03")
        chat.shows("Ctrl-C again ends the chat.\nYou: ")
        chat.types("Crash now\r")
        chat.shows("ZeroDivisionError: division by zero\n")
        chat.shows("ms to the first token\n\nYou: ")
        chat.types("\x04")
        chat.shows("the desk is left")
        assert chat.ends() == 0


def test_what_the_agent_says_of_itself_comes_above_what_is_being_typed(tmp_path: Path) -> None:
    code = DESK.replace('self.agent.say("Good morning.")', "self.saying = asyncio.create_task(later(self.agent))")
    flag = tmp_path / "flag"
    with terminal(
        written(tmp_path / "desk.py", code.replace("class Desk", LATER.replace("FLAG", str(flag)) + "class Desk"))
    ) as chat:
        chat.shows("You: ")
        chat.types("/qu")
        chat.shows("/qu")
        flag.touch()
        assert chat.shows("\nYou: /qu") == "Desk: It is late."
        chat.types("it\r")
        assert chat.ends() == 0


@pytest.mark.chaos
def test_a_chat_that_is_killed_takes_its_node_along_and_one_that_is_told_to_end_leaves_its_tasks(desk: Path) -> None:
    with terminal(desk) as killed, terminal(desk) as told:
        for one in (killed, told):
            one.shows("You: ")
        nodes = children(killed.process.pid)
        assert len(nodes) == 1
        killed.process.kill()
        told.process.send_signal(signal.SIGTERM)
        told.shows("the desk is left")
        assert told.ends() == 0
        wait_until(lambda: not processes.alive(nodes[0]), 5.0, "the end of the node")


def children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


# --- how it looks -----------------------------------------------------------------------------------------------------


@pytest.fixture
def view() -> ChatView:
    return ChatView(StringIO(), typed=False)


def shown(view: ChatView) -> str:
    assert isinstance(view.console.file, StringIO)
    return view.console.file.getvalue()


def test_handoffs_in_a_row_are_one_line(view: ChatView) -> None:
    for old, new in ((None, "Desk"), ("Desk", "Order"), ("Order", "Drink")):
        view.handed_over(old, new)
    view.writes("Drink", "Tea?")
    assert shown(view) == "— Desk → Order → Drink —\nDrink: Tea?"


def test_arguments_are_shown_as_python_has_them_and_wrong_ones_as_they_are(view: ChatView) -> None:
    view.calls(FunctionCall("book", '{"day": "Monday", "people": [1, 2], "vegan": true}', "1"))
    view.calls(FunctionCall("book", "{day:", "2"))
    view.calls(FunctionCall("book", "", "3"))
    assert shown(view) == '  → book(day="Monday", people=[1, 2], vegan=true)\n  → book({day:)\n  → book()\n'


def test_outputs_are_quoted_when_they_are_text_and_cut_when_they_are_long(view: ChatView) -> None:
    for output in ("booked", '{"at": 7}', "", "x" * 1000):
        view.returned(FunctionOutput("1", "book", output))
    assert shown(view).splitlines() == [
        '  ← "booked"',
        '  ← {"at": 7}',
        "  ← nothing",
        f'  ← "{"x" * 299} … (1002 characters)',
    ]


def test_what_an_llm_writes_does_not_command_the_terminal_and_is_no_markup(view: ChatView) -> None:
    view.writes("Desk", "a\x1b[2Jb\x07 [bold]c[/bold]\\")
    view.said("Desk", "", interrupted=True)
    assert shown(view) == "Desk: a[2Jb [bold]c[/bold]\\ (interrupted)\n"
