"""A client of supervisord: what it says about its processes, and what it is told. XML-RPC over its unix socket.

Knows no services and no nodes.
"""

from __future__ import annotations

import socket
import xmlrpc.client
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from typing import Any

from supervisor.states import RUNNING_STATES, STOPPED_STATES
from supervisor.xmlrpc import Faults, SupervisorTransport

from protocol.errors import Unavailable

ANSWER_TIMEOUT_S = 5.0  # its loop only ever waits for us; longer means that it hangs


class SupervisordGone(Unavailable):
    """Nobody answers on supervisord's socket."""

    code = "supervisord_gone"


@dataclass(frozen=True)
class Process:
    """One process as supervisord sees it. `pid` 0: it does not run. `exit_status`: of its last end."""

    name: str
    group: str
    state: str  # STOPPED, STARTING, RUNNING, BACKOFF, STOPPING, EXITED, FATAL, UNKNOWN
    code: int
    pid: int
    exit_status: int
    problem: str  # why it could not be started
    log: Path

    @property
    def id(self) -> str:
        """How supervisord's commands name it."""
        return f"{self.group}:{self.name}"

    @property
    def running(self) -> bool:
        """It runs, or supervisord is about to start it."""
        return self.code in RUNNING_STATES

    @property
    def ended(self) -> bool:
        """It does not run, and is not about to."""
        return self.code in STOPPED_STATES


class Supervisord:
    """The supervisord that listens on this socket. Each method is one call; `SupervisordGone` when nobody answers."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.url = f"unix://{path}"
        # The host name is never looked up: the transport knows where to go.
        self._proxy = xmlrpc.client.ServerProxy("http://localhost", transport=_Transport(path))

    def pid(self) -> int | None:
        """Its process id, or None when nobody answers."""
        try:
            return int(self._call("supervisor.getPID"))
        except SupervisordGone:
            return None

    def processes(self) -> list[Process]:
        """All processes, by name."""
        found = [_process(info) for info in self._call("supervisor.getAllProcessInfo")]
        return sorted(found, key=lambda process: process.name)

    def start(self, process: str) -> None:
        """Start a process that has ended; does not wait for it."""
        self._call("supervisor.startProcess", process, False, harmless=(Faults.ALREADY_STARTED,))

    def stop(self, process: str) -> None:
        """Send the process its stop signal; does not wait for it to end."""
        self._call("supervisor.stopProcess", process, False, harmless=(Faults.NOT_RUNNING,))

    def kill(self, process: str) -> None:
        """Send SIGKILL to a process that was told to stop."""
        self._call("supervisor.signalProcess", process, "KILL", harmless=(Faults.NOT_RUNNING,))

    def reload_config(self) -> None:
        """Read the configuration and its included files again; starts and stops nothing."""
        self._call("supervisor.reloadConfig")

    def add_group(self, group: str) -> None:
        """Take up (and start) a program that the configuration has since it was read again."""
        self._call("supervisor.addProcessGroup", group, harmless=(Faults.ALREADY_ADDED,))

    def remove_group(self, group: str) -> None:
        """Forget a program whose processes have ended."""
        self._call("supervisor.removeProcessGroup", group, harmless=(Faults.BAD_NAME,))

    def shutdown(self) -> None:
        """Tell it to stop everything and leave; it is still there for a moment when this returns."""
        self._call("supervisor.shutdown", harmless=(Faults.SHUTDOWN_STATE,))

    def _call(self, method: str, *arguments: Any, harmless: tuple[int, ...] = ()) -> Any:
        try:
            return self._proxy.__getattr__(method)(*arguments)
        except xmlrpc.client.Fault as fault:
            if fault.faultCode in harmless:
                return None
            if fault.faultCode == Faults.SHUTDOWN_STATE:
                raise SupervisordGone(f"supervisord at {self.path} is shutting down") from None
            raise Unavailable(f"supervisord at {self.path} refuses {method}{arguments}: {fault.faultString}") from None
        except (OSError, HTTPException, xmlrpc.client.ProtocolError) as error:
            self._proxy("close")()
            raise SupervisordGone(f"no supervisord answers at {self.path} ({error or type(error).__name__})") from None


def _process(info: dict[str, Any]) -> Process:
    return Process(
        name=info["name"],
        group=info["group"],
        state=info["statename"],
        code=info["state"],
        pid=info["pid"],
        exit_status=info["exitstatus"],
        problem=info["spawnerr"],
        log=Path(info["stdout_logfile"]),
    )


class _Transport(SupervisorTransport):  # type: ignore[misc]  # supervisor has no types
    """supervisor's own transport, with a deadline: a supervisord that is stopped or hangs would hold us for ever."""

    def __init__(self, path: Path) -> None:
        super().__init__(serverurl=f"unix://{path}")
        self._get_connection = lambda: _Connection(path)


class _Connection(HTTPConnection):
    def __init__(self, path: Path) -> None:
        super().__init__("localhost", timeout=ANSWER_TIMEOUT_S)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self._path))
