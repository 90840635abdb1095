"""The command line against a real stack: up, status, scale, send, logs, down."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import soundfile

from antiphon.waiting import wait_until
from tests.real_stack import EXAMPLES, RealStack, real_stack, run_directory
from tests.wer import word_error_rate

HELLO = EXAMPLES / "01-slt-hello.wav"
TIME = EXAMPLES / "03-awb-time.wav"


def test_up_returns_when_everything_is_ready(stack: RealStack) -> None:
    status = stack.status()
    assert status["missing"] == []
    assert {node["service"] for node in status["nodes"]} == {"vad", "stt", "llm", "tts"}
    assert {node["state"] for node in status["nodes"]} == {"ready"}
    assert len(status["nodes"]) == 8
    assert status["supervisord"] in stack.processes()


def test_up_again_says_so_and_touches_nothing(stack: RealStack) -> None:
    before = stack.pids()
    assert "was up already" in stack.do("up")
    assert stack.pids() == before


def test_up_with_another_agent_than_the_one_that_runs_is_refused(stack: RealStack) -> None:
    done = stack.run("up", "--agent", "my_agent:make")
    assert done.returncode == 78
    assert "antiphon down" in done.stderr


def test_scaling_adds_and_removes_processes_and_touches_no_other(stack: RealStack) -> None:
    before = stack.pids()
    assert "started stt-03, stt-04" in stack.do("scale", "stt=4")
    more = stack.pids()
    assert set(more) - set(before) == {"stt-03", "stt-04"}
    assert {name: more[name] for name in before} == before
    assert "stopped stt-04, stt-03" in stack.do("scale", "stt=2")
    assert stack.pids() == before
    assert [process["name"] for process in stack.status()["processes"] if process["name"] == "stt-03"] == []


def test_another_orchestrator_is_found_by_all_nodes_before_scale_returns(stack: RealStack) -> None:
    stack.do("scale", "orchestrator=2")
    status = stack.status()
    assert status["missing"] == []
    assert {tuple(node["ready_at"]) for node in status["nodes"]} == {("orchestrator-01", "orchestrator-02")}
    stack.do("scale", "orchestrator=1")
    assert sorted(path.name for path in stack.run_dir.sockets.glob("*.control")) == ["orchestrator-01.control"]


def test_a_service_that_was_scaled_to_nothing_is_missing_and_up_says_why(stack: RealStack) -> None:
    stack.do("scale", "tts=0")
    assert [one["name"] for one in stack.status()["missing"]] == ["tts"]
    done = stack.run("up")
    assert done.returncode == 69
    assert "antiphon scale tts=1" in done.stderr
    stack.do("scale", "tts=2")


@pytest.mark.parametrize("wanted", ["foo=1", "stt=x", "orchestrator=0", "stt=100", "stt"])
def test_what_cannot_be_scaled_is_a_usage_error(stack: RealStack, wanted: str) -> None:
    done = stack.run("scale", wanted)
    assert done.returncode == 2
    assert "Invalid value" in done.stderr


@pytest.mark.chaos
def test_a_killed_node_is_gone_within_a_second_and_comes_back(stack: RealStack) -> None:
    victim = stack.pids()["stt-01"]
    os.kill(victim, signal.SIGKILL)

    def serving() -> bool:
        return any(node["pid"] == victim for node in stack.status()["nodes"])

    began = time.monotonic()
    assert wait_until(lambda: not serving(), 5.0)
    assert time.monotonic() - began < 1.5  # of which half a second may be the command itself
    assert wait_until(lambda: not stack.status()["missing"], 20.0), stack.logs()
    assert stack.pids()["stt-01"] != victim


def test_send_prints_what_was_heard_and_answered_and_how_long_it_took(stack: RealStack, tmp_path: Path) -> None:
    out = tmp_path / "reply.wav"
    printed = stack.do("send", HELLO, "--out", out)
    assert "you    hello can you hear me" in printed
    assert "agent  Hello!" in printed
    assert "first audio after" in printed
    assert soundfile.info(str(out)).duration > 1.0


def test_send_json_is_one_document_with_a_turn_for_each_file_and_text(stack: RealStack) -> None:
    document = json.loads(stack.do("send", "--json", "--pace", "fast", HELLO, TIME, "--text", "What time is it?"))
    first, second, third = document["turns"]
    assert [turn["file"] for turn in document["turns"]] == [str(HELLO), str(TIME), None]
    assert [turn["turn"] for turn in document["turns"]] == [1, 2, 3]
    assert {turn["outcome"] for turn in document["turns"]} == {"completed"}
    assert word_error_rate(HELLO.with_suffix(".txt").read_text(), first["heard"]) == 0.0
    assert third["heard"] == "What time is it?"
    assert document["errors"] == []
    assert document["orchestrator"] == "orchestrator-01"
    for turn in document["turns"]:
        assert turn["audio_ms"] > 500
        assert turn["heard_ms"] == turn["audio_ms"]
        assert 0 < turn["first_audio_ms"] < 3_000
    assert set(second["stages"]) >= {"endpointing_ms", "stt_ms", "llm_ms", "tts_ms", "total_ms"}
    assert third["stages"]["stt_ms"] is None


def test_files_of_other_rates_and_channels_are_heard_as_well(stack: RealStack, tmp_path: Path) -> None:
    path = tmp_path / "stereo.flac"
    samples, rate = soundfile.read(str(HELLO))
    soundfile.write(str(path), samples.repeat(2).reshape(-1, 2).repeat(3, axis=0), rate * 3)
    document = json.loads(stack.do("send", "--json", "--pace", "fast", path))
    assert document["turns"][0]["heard"] == "hello can you hear me"


def test_a_file_without_speech_is_said_to_have_none(stack: RealStack, tmp_path: Path) -> None:
    path = tmp_path / "silence.wav"
    soundfile.write(str(path), [0.0] * 16_000, 16_000)
    done = stack.run("send", "--pace", "fast", path)
    assert done.returncode == 1
    assert "no speech was found" in done.stdout
    document = json.loads(stack.run("send", "--pace", "fast", "--json", path).stdout)
    assert (document["turns"], document["silent_files"]) == ([], [str(path)])


def test_ctrl_c_closes_the_session_at_once(stack: RealStack) -> None:
    sending = stack.start("send", *[EXAMPLES / "06-awb-appointment.wav"] * 3)
    try:
        assert wait_until(lambda: len(stack.status()["sessions"]) == 1, 10.0)
        sending.send_signal(signal.SIGINT)
        _, err = sending.communicate(timeout=10.0)
    finally:
        sending.kill()
    assert sending.returncode == 130
    assert "Traceback" not in err
    assert wait_until(lambda: not stack.status()["sessions"], 2.0)


def test_logs_show_the_processes_that_were_named(stack: RealStack) -> None:
    printed = stack.do("logs", "-n", "50", "stt-01", "vad")
    assert {line.split()[0] for line in printed.splitlines() if line} <= {"stt-01", "vad-01", "vad-02"}
    assert "pocketsphinx is ready" in printed
    assert stack.run("logs", "nobody").returncode == 78


def test_logs_follow_what_is_written_from_now_on(stack: RealStack) -> None:
    following = stack.start("logs", "-f", "-n", "1", "llm")
    try:
        assert following.stdout is not None
        assert following.stdout.readline()  # it has opened the files
        stack.do("scale", "llm=3")
        while "llm-03" not in (line := following.stdout.readline()):
            assert line
    finally:
        following.send_signal(signal.SIGINT)
        following.communicate(timeout=10.0)
    assert following.returncode == 130


def test_doctor_finds_no_problem(stack: RealStack) -> None:
    document = json.loads(stack.do("doctor", "--json"))
    assert document["healthy"]
    about = {finding["about"]: finding["level"] for finding in document["findings"]}
    assert about["stack"] == "ok"
    assert about["engine vad/silero"] == about["engine stt/pocketsphinx"] == "ok"


def test_two_stacks_live_side_by_side_and_down_ends_only_its_own(stack: RealStack) -> None:
    before = stack.pids()
    with real_stack() as other:
        assert set(other.pids().values()).isdisjoint(before.values())
        assert other.status()["nodes"][0]["registered_at"] == ["orchestrator-01"]
        printed = other.do("down", "--now")
        assert "Stopped 9 processes and supervisord" in printed
        assert other.processes() == []
        assert list(other.run_dir.sockets.iterdir()) == []
        assert other.run("status").returncode == 3
        assert "Nothing runs" in other.do("down")
    assert stack.pids() == before


@pytest.mark.chaos
def test_down_stops_what_a_killed_supervisord_left_behind(stack: RealStack) -> None:
    with real_stack() as other:
        os.kill(other.status()["supervisord"], signal.SIGKILL)
        assert wait_until(lambda: other.status()["supervisord"] is None, 5.0)
        assert other.run("up").returncode == 69
        doctor = other.run("doctor")
        assert doctor.returncode == 1
        assert "antiphon down stops them" in doctor.stdout
        assert "Stopped" in other.do("down", "--now")
        assert other.processes() == []


def test_up_says_which_process_is_wrong_with_the_end_of_its_log() -> None:
    with run_directory() as stack:
        done = stack.run("up", ANTIPHON_STT_ENGINE="nonesuch")
        assert done.returncode == 78
        # Both end, and `up` returns with the first of them that has.
        assert re.search(r"stt-0[12] left: its configuration is wrong", done.stderr), done.stderr
        assert "there is no engine stt/nonesuch" in done.stderr


def test_without_a_stack_send_says_how_to_start_one(tmp_path: Path) -> None:
    with run_directory() as stack:
        done = stack.run("send", HELLO)
        assert done.returncode == 69
        assert "antiphon up" in done.stderr
        assert stack.run("send", HELLO, "--connect", f"ipc://{tmp_path}/nobody").returncode == 69


@pytest.mark.parametrize("name", ["missing.wav", "empty.wav", "text.wav", "folder"])
def test_a_file_that_is_no_sound_is_refused_before_anything_is_sent(tmp_path: Path, name: str) -> None:
    (tmp_path / "empty.wav").touch()
    (tmp_path / "text.wav").write_text("This is not sound, but it is long enough to be mistaken for it. " * 20)
    (tmp_path / "folder").mkdir()
    with run_directory() as stack:
        done = stack.run("send", tmp_path / name)
    assert done.returncode == 66
    assert done.stderr.startswith(f"antiphon: {tmp_path / name}: ")
    assert "Traceback" not in done.stderr


def test_the_shipped_configuration_runs_under_a_plain_supervisord_from_a_checkout(tmp_path: Path) -> None:
    here = Path(__file__).parent.parent.parent
    with run_directory() as stack:
        home = stack.run_dir.path
        (home / "supervisord.conf").write_bytes((here / "supervisord.conf").read_bytes())
        (home / "scripts").symlink_to(here / "scripts")
        plain = RealStack(type(stack.run_dir)(home / "run"))
        plain.run_dir.create()
        environment = {name: value for name, value in plain.environment().items() if name != "ANTIPHON_RUN_DIR"}
        supervisord = [sys.executable, "-m", "supervisor.supervisord", "-c", str(home / "supervisord.conf")]
        subprocess.run(supervisord, env=environment, check=True, timeout=20, capture_output=True)
        try:
            assert wait_until(lambda: plain.run("status").returncode == 0, 20.0), plain.logs()
            plain.do("scale", "vad=3")
            assert plain.status()["missing"] == []
        finally:
            plain.do("down", "--now")
        assert plain.processes() == []
