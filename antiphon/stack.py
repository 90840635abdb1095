"""A stack as it is now: what supervisord says of its processes, and what each orchestrator says of its nodes.

Reads only. Works for a stack without supervisord as well (processes started by hand or by another supervisor).
"""

from __future__ import annotations

import fcntl
from dataclasses import dataclass, field
from pathlib import Path

from antiphon import exit_codes
from antiphon.rundir import RunDir
from antiphon.supervisord import Process, Supervisord, SupervisordGone
from protocol.control import NodeStatus, Snapshot, fetch_snapshot
from protocol.endpoint import IPC
from protocol.engine import SERVICES
from protocol.errors import AntiphonError, ConnectionLost

ORCHESTRATOR = "orchestrator"


@dataclass(frozen=True)
class Missing:
    """Something that should be there and is not. `process` is None when nothing in particular can be blamed."""

    name: str
    why: str
    process: Process | None = None
    stopped_on_purpose: bool = False

    @property
    def hopeless(self) -> bool:
        """Waiting will not help: somebody has to change something first."""
        process = self.process
        if process is None:
            return self.stopped_on_purpose
        return process.state == "FATAL" or (
            process.state == "EXITED" and process.exit_status == exit_codes.CONFIGURATION
        )


@dataclass
class Node:
    """A node, over all orchestrators at which it is registered."""

    status: NodeStatus
    registered_at: list[str] = field(default_factory=list)
    ready_at: list[str] = field(default_factory=list)


@dataclass
class Stack:
    """One look at a stack. `supervisord` is its pid or None; `silent` are orchestrators that run but do not answer."""

    run_dir: RunDir
    supervisord: int | None = None
    processes: list[Process] = field(default_factory=list)
    snapshots: dict[str, Snapshot] = field(default_factory=dict)
    silent: dict[str, str] = field(default_factory=dict)

    @property
    def empty(self) -> bool:
        """Nothing runs here."""
        return self.supervisord is None and not self.snapshots and not self.silent

    @property
    def nodes(self) -> dict[str, Node]:
        """The registered nodes by name, in the order of the pipeline."""
        found: dict[str, Node] = {}
        for orchestrator, snapshot in self.snapshots.items():
            for status in snapshot.nodes:
                node = found.setdefault(status.name, Node(status))
                node.registered_at.append(orchestrator)
                if status.state == "ready":
                    node.ready_at.append(orchestrator)
        order: dict[str, int] = {service: place for place, service in enumerate(SERVICES)}
        return dict(sorted(found.items(), key=lambda item: (order.get(item[1].status.service, 9), item[0])))

    def process(self, name: str) -> Process | None:
        """What supervisord says of the process of that name."""
        return next((process for process in self.processes if process.name == name), None)

    def missing(self) -> list[Missing]:
        """What is not as it should be. A process that was stopped on purpose (by `scale`) is none of it."""
        found = [
            Missing(process.name, why, process)
            for process in self.processes
            if process.state != "STOPPED" and (why := self._why_not(process))
        ]
        known = {missing.name for missing in found}
        found += [Missing(name, why) for name, why in self.silent.items() if name not in known]
        if not self.snapshots and not any(service_of(missing.name) == ORCHESTRATOR for missing in found):
            found.append(Missing(ORCHESTRATOR, "no orchestrator runs"))
        blamed = {service_of(missing.name) for missing in found}
        for name, snapshot in self.snapshots.items():
            ready = {node.service for node in snapshot.nodes if node.state == "ready"}
            found += [
                self._unserved(service, name) for service in SERVICES if service not in ready and service not in blamed
            ]
        return found

    def _unserved(self, service: str, orchestrator: str) -> Missing:
        own = [process for process in self.processes if service_of(process.name) == service]
        if own and all(process.state == "STOPPED" for process in own):
            why = f"no {service} node runs, because it was scaled to 0; start one with: antiphon scale {service}=1"
            return Missing(service, why, stopped_on_purpose=True)
        return Missing(service, f"no {service} node is ready at {orchestrator}")

    def _why_not(self, process: Process) -> str:
        """Why this process does not serve; empty when it does."""
        if process.state in ("EXITED", "STOPPING", "UNKNOWN"):
            return _ending(process)
        if process.state in ("FATAL", "BACKOFF"):
            return f"cannot be started: {process.problem or 'it ends at once'}"
        if process.state == "STARTING":
            return "is being started"
        service = service_of(process.name)
        if service == ORCHESTRATOR:
            return "" if process.name in self.snapshots else "runs, but does not answer yet"
        return self._why_not_ready(process.name) if service in SERVICES else ""

    def _why_not_ready(self, name: str) -> str:
        for orchestrator, snapshot in self.snapshots.items():
            status = next((node for node in snapshot.nodes if node.name == name), None)
            if status is None:
                return f"runs, but is not registered at {orchestrator}"
            if status.state != "ready":
                return f"is {status.state}" if len(self.snapshots) == 1 else f"is {status.state} at {orchestrator}"
        return "" if self.snapshots else "runs, but there is no orchestrator to register at"


def observe(run_dir: RunDir, timeout_s: float = 1.0) -> Stack:
    """Look at the stack now; an orchestrator that does not answer within `timeout_s` seconds is called silent."""
    stack = Stack(run_dir)
    supervisord = Supervisord(run_dir.supervisor_socket)
    stack.supervisord = supervisord.pid()
    if stack.supervisord is not None:
        try:
            stack.processes = supervisord.processes()
        except SupervisordGone:  # it left between the two questions
            stack.supervisord = None
    for name, address in run_dir.endpoints("control").items():
        if stale(address):
            continue
        answer = _ask(address, timeout_s)
        if isinstance(answer, Snapshot):
            stack.snapshots[name] = answer
        else:
            stack.silent[name] = answer
    return stack


def service_of(name: str) -> str:
    """The service in a process's name: `stt` of `stt-03`."""
    return name.rpartition("-")[0] or name


def stale(endpoint: str) -> bool:
    """True when nobody holds this ipc address any more: its process was killed and left the file behind."""
    path = Path(f"{endpoint.removeprefix(IPC)}.lock")
    try:
        with open(path, "rb") as held:
            fcntl.flock(held, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False  # bound by something that takes no lock: ask it
    except OSError:
        return False
    return True


def _ask(endpoint: str, timeout_s: float) -> Snapshot | str:
    try:
        return fetch_snapshot(endpoint, timeout_s)
    except ConnectionLost:
        return f"runs, but has not answered for {timeout_s:g} s"
    except AntiphonError as error:
        return f"answers what cannot be read: {error}"


def _ending(process: Process) -> str:
    if process.state == "EXITED":
        if process.exit_status == 0:
            return "has drained and left"
        if process.exit_status == exit_codes.CONFIGURATION:
            return "left: its configuration is wrong (exit code 78)"
        return f"has died (exit code {process.exit_status}) and is about to be started again"
    return "is being stopped" if process.state == "STOPPING" else "is in a state that supervisord does not know"
