"""Addresses: which are possible, which may be bound, what they stand for, and that nobody is robbed of one."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.endpoint import MAX_IPC_PATH, check, check_bind, expand, lock
from protocol.errors import EndpointError


@pytest.mark.parametrize(
    "endpoint",
    ["ipc:///run/a.nodes", "tcp://127.0.0.1:7701", "tcp://*:*", "tcp://[::1]:0", "tcp://orchestrator.local:65535"],
)
def test_these_are_addresses(endpoint: str) -> None:
    check(endpoint)


@pytest.mark.parametrize(
    ("endpoint", "problem"),
    [
        ("", "an address starts with ipc:// or tcp://"),
        ("inproc://a", "an address starts with ipc:// or tcp://"),
        ("/run/a.nodes", "an address starts with ipc:// or tcp://"),
        ("ipc://a.nodes", "an ipc address needs an absolute path"),
        ("tcp://127.0.0.1", "a tcp address is tcp://HOST:PORT"),
        ("tcp://:7701", "a tcp address is tcp://HOST:PORT"),
        ("tcp://a:65536", "a tcp address is tcp://HOST:PORT"),
        ("tcp://a:-1", "a tcp address is tcp://HOST:PORT"),
        ("tcp://a:²", "a tcp address is tcp://HOST:PORT"),
        ("tcp://a:http", "a tcp address is tcp://HOST:PORT"),
    ],
)
def test_these_are_not_and_the_error_says_why(endpoint: str, problem: str) -> None:
    with pytest.raises(EndpointError, match=problem):
        check(endpoint)


@given(st.text(max_size=30), st.sampled_from(["", "ipc://", "ipc:///", "tcp://", "tcp://a:"]))
def test_anything_else_is_an_endpoint_error_or_an_address(rest: str, start: str) -> None:
    try:
        check(start + rest)
    except EndpointError:
        return
    assert (start + rest).startswith(("ipc:///", "tcp://"))


def test_an_ipc_path_is_measured_in_bytes() -> None:
    check("ipc:///" + "a" * (MAX_IPC_PATH - 1))
    with pytest.raises(EndpointError, match=rf"the path has {MAX_IPC_PATH + 1} bytes.*allows {MAX_IPC_PATH}"):
        check("ipc:///" + "a" * MAX_IPC_PATH)
    with pytest.raises(EndpointError, match="the path has 121 bytes"):
        check("ipc:///" + "ü" * 60)


@pytest.mark.parametrize("endpoint", ["ipc:///run/a", "tcp://127.0.0.1:1", "tcp://127.8.8.8:1", "tcp://[::1]:1"])
def test_this_machine_alone_may_be_offered_an_open_socket(endpoint: str) -> None:
    check_bind(endpoint, insecure=False)


@pytest.mark.parametrize("endpoint", ["tcp://0.0.0.0:1", "tcp://*:1", "tcp://10.0.0.1:1", "tcp://[::]:1", "tcp://db:1"])
def test_the_network_may_not_unless_that_is_said(endpoint: str) -> None:
    with pytest.raises(EndpointError, match=r"not encrypted.*--insecure"):
        check_bind(endpoint, insecure=False)
    check_bind(endpoint, insecure=True)


def test_a_pattern_stands_for_the_sockets_that_are_there(tmp_path: Path) -> None:
    assert expand(f"ipc://{tmp_path}/*.nodes") == []
    for name in ("b.nodes", "a.nodes", "a.ingest", "a.nodes.lock"):
        (tmp_path / name).touch()
    assert expand(f"ipc://{tmp_path}/*.nodes") == [f"ipc://{tmp_path}/a.nodes", f"ipc://{tmp_path}/b.nodes"]
    assert expand(f"ipc://{tmp_path}/c.nodes") == [f"ipc://{tmp_path}/c.nodes"]


def test_a_host_name_stands_for_its_addresses() -> None:
    assert expand("tcp://127.0.0.1:7701") == ["tcp://127.0.0.1:7701"]
    assert expand("tcp://[::1]:7701") == ["tcp://[::1]:7701"]
    assert "tcp://127.0.0.1:7701" in expand("tcp://localhost:7701")
    assert expand("tcp://no-such-host.invalid:7701") == []
    assert expand("tcp://" + "a" * 70 + ":7701") == []


def test_a_second_bind_of_an_ipc_path_is_refused_by_name(tmp_path: Path) -> None:
    endpoint = f"ipc://{tmp_path}/made/a.nodes"
    held = lock(endpoint)
    assert held is not None
    with held, pytest.raises(EndpointError, match=rf"a\.nodes: already bound by process {os.getpid()}; stop it, or"):
        lock(endpoint)
    assert (tmp_path / "made").stat().st_mode & 0o777 == 0o700
    again = lock(endpoint)
    assert again is not None
    again.close()


def test_the_lock_goes_with_its_process(tmp_path: Path) -> None:
    endpoint = f"ipc://{tmp_path}/a.nodes"
    script = f"from protocol.endpoint import lock; held = lock({endpoint!r}); print('held', flush=True); input()"
    command = [sys.executable, "-c", script]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        with pytest.raises(EndpointError, match=f"process {process.pid};"):
            lock(endpoint)
        process.kill()
    held = lock(endpoint)
    assert held is not None
    held.close()


def test_a_lock_that_cannot_be_made_is_an_endpoint_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(EndpointError, match="its lock file cannot be made"):
        lock(f"ipc://{tmp_path}/file/a.nodes")


def test_tcp_needs_no_lock() -> None:
    assert lock("tcp://127.0.0.1:7701") is None
