"""`antiphon run` with real processes: what is shown, what a change of the code does, and that nothing stays behind."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from click.testing import CliRunner

from antiphon.main import main
from antiphon.own_run_dir import own_run_dir
from antiphon.rundir import RunDir
from tests.real_stack import COMMAND, EXAMPLES, RealStack, run_directory
from tests.support import expect_process, forget_process, wait_until

AGENT = """
import my_words
from orchestrator import SessionInfo, VoiceAgent


def desk(session: SessionInfo) -> VoiceAgent:
    print("a desk for", session.user_id)
    return VoiceAgent(instructions=f"You are a receptionist. {my_words.HOURS}")
"""


@dataclass
class Development:
    """An `antiphon run` that goes on, the folder of its agent, and all that it has printed."""

    process: subprocess.Popen[bytes]
    folder: Path
    stack: RealStack
    printed: Path

    @property
    def said(self) -> str:
        return self.printed.read_text()

    def says(self, text: str, after: int = 0, timeout_s: float = 20.0) -> str:
        """Wait until it has said this, and return all that it has said since `after` characters."""
        wait_until(
            lambda: text in self.said[after:] or self.process.poll() is not None,
            timeout_s,
            f"{text!r} in what was printed",
        )
        assert text in self.said[after:], self.said
        return self.said[after:]

    def says_after(self, change: Callable[[], object], text: str) -> str:
        """What it says from this change on, until it has said `text`."""
        before = len(self.said)
        change()
        return self.says(text, before)

    def answer(self) -> str:
        """What is answered in a new conversation."""
        asked = ("send", "--json", "--pace", "fast", "--user", "Ann", "--text", "What are your opening hours?")
        answered: str = json.loads(self.stack.do(*asked))["turns"][0]["answered"]
        return answered

    def ended(self) -> int:
        """Wait until it has ended: then nothing runs any more, and no socket is left. Returns its exit code."""
        code = self.process.wait(timeout=20.0)
        assert self.stack.processes() == [], self.said
        assert list(self.stack.run_dir.sockets.iterdir()) == []
        assert not self.stack.run_dir.supervisor_socket.exists()
        return code


@contextmanager
def development(stack: RealStack, folder: Path, *options: str, **environment: str) -> Iterator[Development]:
    printed = folder / "printed"
    with open(printed, "ab") as output:
        process = subprocess.Popen(
            [*COMMAND, "run", str(folder / "my_agent.py"), *options],
            env=stack.environment(**environment),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    expect_process(process.pid)
    try:
        yield Development(process, folder, stack, printed)
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
        process.wait(timeout=20.0)
        forget_process(process.pid)


def write_agent(folder: Path, code: str = AGENT) -> None:
    (folder / "my_agent.py").write_text(code)
    (folder / "my_words.py").write_text("HOURS = 'Our opening hours are nine to five.'\n")


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Development]:
    """One that is ready. Tests leave its code as it was, and the orchestrator ready."""
    folder = tmp_path_factory.mktemp("agent")
    write_agent(folder)
    with run_directory() as stack, development(stack, folder) as found:
        found.says("Ctrl-C stops it.")
        yield found
        found.process.send_signal(signal.SIGTERM)
        assert found.ended() == 0
        assert found.said.endswith("Stopped.\n")


@pytest.fixture
def stack() -> Iterator[RealStack]:
    with run_directory() as found:
        yield found


# --- what is shown ----------------------------------------------------------------------------------------------------


def test_it_says_when_it_is_ready_and_what_to_do_next(running: Development) -> None:
    assert "READY after " in running.said
    assert f"antiphon send --run-dir {running.stack.run_dir.path} --text 'Hello!'" in running.said
    assert f"2 Python files in {running.folder}" in running.said
    assert {node["service"] for node in running.stack.status()["nodes"]} == {"vad", "stt", "llm", "tts"}


def test_what_the_agent_prints_is_seen_at_once_and_the_nodes_are_quiet(running: Development) -> None:
    shown = running.says_after(running.answer, "orchestrator-01 a desk for Ann")
    assert {line.split()[0] for line in running.said.splitlines() if "-01 " in line} == {"orchestrator-01"}
    assert "session" in shown


def test_the_same_run_directory_is_not_used_twice(running: Development) -> None:
    done = running.stack.run("run", running.folder / "my_agent.py")
    assert done.returncode == 69
    assert f"`antiphon run` is at work here already (process {running.process.pid}" in done.stderr


# --- what a change does -----------------------------------------------------------------------------------------------


def test_a_change_is_heard_in_the_next_conversation_and_no_node_is_touched(running: Development) -> None:
    before = running.stack.pids()
    assert "nine to five" in running.answer()
    words = running.folder / "my_words.py"
    said = running.says_after(lambda: words.write_text(words.read_text().replace("nine", "four")), "READY again after ")
    assert "Changed: my_words.py\n" in said
    assert "four to five" in running.answer()
    after = running.stack.pids()
    assert after.pop("orchestrator-01") != before.pop("orchestrator-01")
    assert after == before
    running.says_after(lambda: words.write_text(words.read_text().replace("four", "nine")), "READY again after ")


def test_a_conversation_that_a_change_ends_is_counted_and_told(running: Development) -> None:
    talking = running.stack.start("send", *[EXAMPLES / "06-awb-appointment.wav"] * 3)
    try:
        wait_until(lambda: running.stack.status()["sessions"], 10.0)
        assert "; 1 conversation was ended" in running.says_after(
            (running.folder / "new.py").touch, "READY again after "
        )
        _, told = talking.communicate(timeout=10.0)
    finally:
        talking.kill()
    assert "the orchestrator is shutting down" in told


def test_a_syntax_error_is_shown_with_its_line_and_what_runs_is_kept(running: Development) -> None:
    before = running.stack.pids()
    agent = running.folder / "my_agent.py"
    said = running.says_after(lambda: agent.write_text(AGENT + "def more(:\n"), "What runs is kept")
    assert f"{agent}:{AGENT.count(chr(10)) + 1}: SyntaxError: invalid syntax\n    def more(:\n" in said
    assert running.stack.pids() == before
    assert "nine to five" in running.answer()
    running.says_after(lambda: write_agent(running.folder), "READY again after ")


def test_a_module_that_fails_is_shown_and_the_next_change_mends_it(running: Development) -> None:
    agent = running.folder / "my_agent.py"
    said = running.says_after(lambda: agent.write_text("1 / 0\n"), "is started again when you have changed it")
    assert f"ZeroDivisionError: division by zero ({agent}:1)" in said
    assert "Traceback (most recent call last)" in said
    running.says_after(lambda: write_agent(running.folder), "READY again after ")
    assert "nine to five" in running.answer()


# --- how it ends ------------------------------------------------------------------------------------------------------


@pytest.mark.chaos
def test_one_that_was_killed_leaves_nothing_that_hinders_the_next_and_ctrl_c_twice_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = Path(tempfile.mkdtemp(prefix="ap-", dir="/tmp")).resolve()
    monkeypatch.setenv("XDG_STATE_HOME", str(home))
    write_agent(tmp_path)
    own = RealStack(own_run_dir("my_agent", tmp_path / "my_agent.py"))
    try:
        with development(own, tmp_path, ANTIPHON_RUN_DIR="") as first:
            wait_until(lambda: len(own.processes()) > 5, 20.0)
            first.process.kill()
            first.process.wait()
        with development(own, tmp_path, ANTIPHON_RUN_DIR="") as second:
            second.says("READY after ")
            second.process.send_signal(signal.SIGINT)
            second.process.send_signal(signal.SIGINT)
            assert second.ended() == 130
            assert "Traceback" not in second.said
    finally:
        own.run("down", "--now")
        shutil.rmtree(home)


@pytest.mark.chaos
def test_when_it_is_killed_its_processes_end_by_themselves(stack: RealStack, tmp_path: Path) -> None:
    write_agent(tmp_path)
    with development(stack, tmp_path) as running:
        wait_until(lambda: len(stack.processes()) > 5, 20.0)
        running.process.kill()
        running.process.wait()
        wait_until(lambda: not stack.processes(), 10.0, "the end of all processes")


@pytest.mark.chaos
def test_when_supervisord_dies_the_rest_is_stopped(stack: RealStack, tmp_path: Path) -> None:
    write_agent(tmp_path)
    with development(stack, tmp_path) as running:
        wait_until(lambda: len(stack.processes()) > 5, 20.0)
        os.kill(int(stack.run_dir.pidfile.read_text()), signal.SIGKILL)
        assert running.ended() == 69
        assert "supervisord has died (exit code -9)" in running.said


def test_down_ends_it(stack: RealStack, tmp_path: Path) -> None:
    write_agent(tmp_path)
    with development(stack, tmp_path) as running:
        wait_until(lambda: len(stack.processes()) > 5, 20.0)
        stack.do("down", "--now")
        assert running.ended() == 0


def test_without_reloading_an_agent_that_fails_ends_it(stack: RealStack, tmp_path: Path) -> None:
    write_agent(tmp_path, "import no_such_library\n")
    with development(stack, tmp_path, "--no-reload") as running:
        assert running.ended() == 78
        assert "my_agent needs the module 'no_such_library', which is not installed" in running.said


# --- what can't be run ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("nowhere.py", "there is no file"),
        (".", "is a folder; name the Python file in it"),
        ("./notes.txt", "is no Python file"),
        ("no_such_module", "there is no module 'no_such_module'"),
        ("my_agent:", "is neither FILE.py[:FACTORY] nor MODULE[:FACTORY]"),
    ],
)
def test_a_wrong_name_is_refused_before_anything_is_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, reason: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "notes.txt").touch()
    done = CliRunner().invoke(main, ["run", name, "--run-dir", str(tmp_path / "run")])
    assert done.exit_code == 78
    assert reason in done.output
    assert not (tmp_path / "run").exists()


def test_up_refuses_a_file_that_is_not_there_as_well(tmp_path: Path) -> None:
    done = CliRunner().invoke(main, ["up", "--agent", str(tmp_path / "nowhere.py"), "--run-dir", str(tmp_path / "run")])
    assert done.exit_code == 2
    assert "there is no file" in done.output
    assert not (tmp_path / "run").exists()


def test_every_agent_has_a_run_directory_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", "/state")
    one, other = (own_run_dir("my agent;", Path(folder) / "my agent;.py") for folder in ("/a", "/b"))
    assert one != other
    assert one == own_run_dir("my agent;", Path("/a/my agent;.py"))
    assert one.path.parent == Path("/state/antiphon-run")
    assert one.path.name.startswith("my_agent_-")
    own_run_dir("x" * 200, Path("/a")).check()
    assert isinstance(one, RunDir)
