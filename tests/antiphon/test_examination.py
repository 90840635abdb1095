"""`antiphon doctor` without a stack: the machine, the run directory, engines, what was left behind, ports."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from antiphon import examine_engines, examine_machine, examine_stack
from antiphon.findings import Finding
from antiphon.rundir import RunDir


def about(findings: list[Finding], name: str) -> Finding:
    return next(finding for finding in findings if finding.about == name)


def test_a_good_machine_has_no_problem(short_path: Path) -> None:
    findings = examine_machine.examine(RunDir(short_path / "run"))
    assert [finding for finding in findings if finding.level == "problem"] == []
    assert "made by antiphon up" in about(findings, "run directory").what


def test_everything_that_is_not_well_says_what_to_do(short_path: Path) -> None:
    findings = [*examine_machine.examine(RunDir(short_path)), *examine_stack.examine(RunDir(short_path))]
    assert all(finding.do for finding in findings if finding.level != "ok")


def test_too_few_descriptors_are_a_warning(monkeypatch: pytest.MonkeyPatch, short_path: Path) -> None:
    monkeypatch.setattr(examine_machine.resource, "getrlimit", lambda _which: (256, 1024))
    found = about(examine_machine.examine(RunDir(short_path)), "descriptors")
    assert found.level == "warning"
    assert "16384" in found.do


def test_a_run_directory_that_cannot_be_is_a_problem(short_path: Path) -> None:
    (short_path / "file").touch()
    for path in (short_path / ("x" * 120), short_path / "file" / "run"):
        found = about(examine_machine.examine(RunDir(path)), "run directory")
        assert found.level == "problem"
        assert "--run-dir" in found.do


def test_sockets_that_others_may_open_are_a_problem(short_path: Path) -> None:
    run_dir = RunDir(short_path)
    run_dir.create()
    run_dir.sockets.chmod(0o755)
    assert about(examine_machine.examine(run_dir), "sockets").level == "problem"


def test_every_installed_engine_is_loaded() -> None:
    findings = examine_engines.examine()
    assert {finding.about for finding in findings} >= {
        "engine vad/silero",
        "engine stt/pocketsphinx",
        "engine llm/rule",
        "engine tts/espeak",
    }
    assert {finding.level for finding in findings} == {"ok"}


def test_an_engine_that_does_not_load_gives_its_reason() -> None:
    found = examine_engines._try("stt", "nonesuch")
    assert found.level == "problem"
    assert "there is no engine stt/nonesuch" in found.what


def test_an_engine_that_hangs_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(examine_engines, "TIMEOUT_S", 0.01)
    assert "has not loaded" in examine_engines._try("vad", "silero").what


def test_sockets_that_nobody_holds_are_named(short_path: Path) -> None:
    run_dir = RunDir(short_path)
    run_dir.create()
    (run_dir.sockets / "orchestrator-01.ingest").touch()
    (run_dir.sockets / "orchestrator-01.ingest.lock").touch()
    found = about(examine_stack.examine(run_dir), "stale sockets")
    assert "orchestrator-01.ingest" in found.what


def test_a_port_that_is_taken_is_a_problem(monkeypatch: pytest.MonkeyPatch, short_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        monkeypatch.setenv("ANTIPHON_ORCHESTRATOR_INGEST", f"tcp://127.0.0.1:{port}")
        assert about(examine_stack.examine(RunDir(short_path)), "ANTIPHON_ORCHESTRATOR_INGEST").level == "problem"
    assert about(examine_stack.examine(RunDir(short_path)), "ANTIPHON_ORCHESTRATOR_INGEST").level == "ok"
