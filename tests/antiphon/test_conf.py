"""supervisord's configuration as it is rendered: for a run directory, and for one more process."""

from __future__ import annotations

import configparser
import sys
from pathlib import Path

import pytest

from antiphon import conf
from antiphon.rundir import RunDir
from protocol.engine import SERVICES
from protocol.errors import ConfigurationError


def parsed(text: str) -> configparser.RawConfigParser:
    parser = configparser.RawConfigParser(strict=False, inline_comment_prefixes=(";", "#"))
    parser.read_string(text)
    return parser


def test_the_rendered_file_runs_this_interpreter_and_keeps_everything_in_its_own_folder() -> None:
    text = conf.render(conf.shipped())
    rendered = parsed(text)
    assert "scripts/antiphon" not in text
    assert "%(here)s/run" not in text
    assert rendered["program:stt"]["command"].startswith(f'"{sys.executable}" -P -m antiphon stt')
    assert rendered["include"]["files"] == "programs/*.conf"
    assert rendered["unix_http_server"]["file"] == "%(here)s/supervisor.sock"


def test_minfds_is_lowered_to_what_the_system_allows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(conf.resource, "getrlimit", lambda _which: (256, 1024))
    assert parsed(conf.render(conf.shipped()))["supervisord"]["minfds"] == "1024"
    monkeypatch.setattr(conf.resource, "getrlimit", lambda _which: (256, conf.resource.RLIM_INFINITY))
    assert parsed(conf.render(conf.shipped()))["supervisord"]["minfds"] == "16384"


@pytest.mark.parametrize("service", [*SERVICES, "orchestrator"])
def test_an_added_process_has_the_settings_of_its_service(service: str, tmp_path: Path) -> None:
    run_dir = RunDir(tmp_path)
    shipped = parsed(conf.shipped())[f"program:{service}"]
    added = parsed(conf.program(conf.shipped(), run_dir, service, 7))[f"program:{service}-07"]
    assert added["command"].endswith(f"{service} --name {service}-07")
    assert added["stdout_logfile"] == str(run_dir.logs / f"{service}-07.log")
    assert "numprocs" not in added
    for setting in ("stopwaitsecs", "autorestart", "exitcodes", "killasgroup", "startsecs"):
        assert added[setting] == shipped[setting]


def test_a_service_that_the_file_does_not_have_cannot_be_added(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="no \\[program:radio\\]"):
        conf.program(conf.shipped(), RunDir(tmp_path), "radio", 1)


def test_only_files_that_scale_wrote_count_as_added(tmp_path: Path) -> None:
    run_dir = RunDir(tmp_path)
    run_dir.create()
    own = conf.program_file(run_dir, "stt-03")
    own.write_text(conf.program(conf.shipped(), run_dir, "stt", 3))
    (run_dir.programs / "theirs.conf").write_text("[program:theirs]\ncommand=/bin/true\n")
    assert conf.added_files(run_dir) == [own]
