"""How is the stack of this run directory: what runs, what is missing, what was left behind, who listens."""

from __future__ import annotations

import os
import socket

from antiphon import processes
from antiphon.console import count
from antiphon.findings import Finding, ok, problem, warning
from antiphon.rundir import RunDir
from antiphon.stack import Stack, observe, stale
from antiphon.supervisord import Supervisord
from protocol.endpoint import IPC, TCP

CONNECT_TIMEOUT_S = 1.0
ADDRESSES = ("INGEST", "NODES", "CONTROL")


def examine(run_dir: RunDir) -> list[Finding]:
    """All of it."""
    stack = observe(run_dir)
    return [*_runs(stack), *_orphans(stack), *_stale(run_dir), *_ports(stack)]


def _runs(stack: Stack) -> list[Finding]:
    if stack.empty:
        return [ok("stack", "none runs here; antiphon up starts one")]
    missing = stack.missing()
    found = [
        problem("stack", f"{one.name} {one.why}" if one.process else one.why, f"antiphon logs {one.name}")
        for one in missing
    ]
    if not found:
        nodes = count(len(stack.nodes), "node")
        found.append(ok("stack", f"runs: {count(len(stack.snapshots), 'orchestrator')}, {nodes}, nothing missing"))
    if stack.supervisord is None:
        do = "antiphon down, then antiphon up; or look to it that something else supervises"
        found.append(warning("supervision", "no supervisord: nothing here is started again when it ends", do))
    return found


def _orphans(stack: Stack) -> list[Finding]:
    if stack.supervisord is not None:
        return []
    left = processes.started_under(Supervisord(stack.run_dir.supervisor_socket).url)
    if not left:
        return []
    what = f"still run although their supervisord was killed: {', '.join(map(str, left))}"
    return [problem("processes", what, "antiphon down stops them")]


def _stale(run_dir: RunDir) -> list[Finding]:
    dead = [
        address.removeprefix(IPC)
        for kind in ("ingest", "nodes", "control")
        for address in run_dir.endpoints(kind).values()
        if stale(address)
    ]
    if not dead:
        return []
    what = f"{count(len(dead), 'file')} of an orchestrator that was killed: {', '.join(dead)}"
    return [warning("stale sockets", what, "nothing; the next start takes them over, and antiphon down removes them")]


def _ports(stack: Stack) -> list[Finding]:
    found = []
    for name, snapshot in stack.snapshots.items():
        for kind, address in (("ingest", snapshot.ingest), ("nodes", snapshot.nodes_endpoint)):
            if address.startswith(TCP):
                found.append(_answers(f"{kind} of {name}", address))
    for variable in (f"ANTIPHON_ORCHESTRATOR_{kind}" for kind in ADDRESSES):
        address = os.environ.get(variable, "")
        if address.startswith(TCP) and not stack.snapshots:
            found.append(_free(variable, address))
    return found


def _answers(about: str, address: str) -> Finding:
    host, port = _split(address)
    try:
        with socket.create_connection((host, port), CONNECT_TIMEOUT_S):
            return ok(about, f"{address} takes connections")
    except OSError as error:
        return problem(about, f"{address} takes no connection: {error.strerror or error}", "look for a firewall")


def _free(about: str, address: str) -> Finding:
    host, port = _split(address)
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((host, port))
    except OSError as error:
        return problem(about, f"{address} cannot be bound: {error.strerror or error}", "choose another port")
    return ok(about, f"{address} is free")


def _split(address: str) -> tuple[str, int]:
    host, _, port = address.removeprefix(TCP).rpartition(":")
    return host.strip("[]"), int(port) if port.isdigit() else 0
