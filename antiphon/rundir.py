"""The run directory: where the sockets, pids, logs and scale files of one stack on this machine live.

Knows paths and their limits, nothing of what runs. Two stacks side by side are two run directories.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from protocol.endpoint import IPC, MAX_IPC_PATH
from protocol.errors import ConfigurationError, Unavailable

LONGEST_SOCKET = "sockets/orchestrator-99.control"
# supervisord and glob read these in a path as something else, and neither has a way to quote them.
FORBIDDEN = "%*?[]\"'\\;#\n"


@dataclass(frozen=True)
class RunDir:
    """The files of one stack. `path` is absolute."""

    path: Path

    @property
    def sockets(self) -> Path:
        """Folder of the ipc sockets of the orchestrators."""
        return self.path / "sockets"

    @property
    def logs(self) -> Path:
        """Folder of one log file for each process."""
        return self.path / "logs"

    @property
    def programs(self) -> Path:
        """Folder of the program files that supervisord includes: what was added to the shipped stack."""
        return self.path / "programs"

    @property
    def boots(self) -> Path:
        """Folder in which processes count the boots that failed, to wait longer each time."""
        return self.path / "boots"

    @property
    def conf(self) -> Path:
        """supervisord's configuration, as `antiphon up` rendered it."""
        return self.path / "supervisord.conf"

    @property
    def pidfile(self) -> Path:
        """supervisord's process id, while it runs."""
        return self.path / "supervisord.pid"

    @property
    def supervisord_log(self) -> Path:
        """What supervisord itself has to say."""
        return self.path / "supervisord.log"

    @property
    def supervisor_socket(self) -> Path:
        """Where supervisord takes commands."""
        return self.path / "supervisor.sock"

    def endpoint(self, orchestrator: str, kind: str) -> str:
        """Address of an orchestrator's `ingest`, `nodes` or `control` socket; "*" as name is the pattern of all."""
        return f"{IPC}{self.sockets / f'{orchestrator}.{kind}'}"

    def endpoints(self, kind: str) -> dict[str, str]:
        """The addresses of that kind whose socket files exist, by the name of their orchestrator."""
        return {path.stem: IPC + str(path) for path in sorted(self.sockets.glob(f"*.{kind}"))}

    def check(self) -> None:
        """Raise `ConfigurationError` for a path that sockets or supervisord cannot live with."""
        found = sorted({character for character in str(self.path) if character in FORBIDDEN})
        if found:
            raise ConfigurationError(
                f"run directory {self.path}: its path contains {' '.join(map(repr, found))}, which supervisord reads "
                "as something else. Choose another one with --run-dir or ANTIPHON_RUN_DIR"
            )
        longest = len(os.fsencode(self.path / LONGEST_SOCKET))
        if longest > MAX_IPC_PATH:
            spare = MAX_IPC_PATH - len(LONGEST_SOCKET) - 1
            raise ConfigurationError(
                f"run directory {self.path}: its path has {len(os.fsencode(self.path))} bytes; at most {spare} are "
                f"possible, for the operating system allows {MAX_IPC_PATH} for the path of a socket. "
                "Choose a shorter one with --run-dir or ANTIPHON_RUN_DIR"
            )

    def create(self) -> None:
        """Check the path and make the folders, readable by this user alone."""
        self.check()
        try:
            for folder in (self.path, self.sockets, self.logs, self.programs):
                folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            self.sockets.chmod(0o700)
        except OSError as error:
            raise ConfigurationError(
                f"run directory {self.path} cannot be made: {error.strerror or error} ({error.filename}). "
                "Choose another one with --run-dir or ANTIPHON_RUN_DIR"
            ) from None

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Hold this run directory for a command that changes the stack.

        Raises `Unavailable` at once when another such command is at work.
        """
        busy = (
            f"another antiphon command (process {{pid}}) is changing the stack in {self.path}; "
            "try again when it has ended"
        )
        with hold(self.path / "antiphon.lock", busy):
            yield


@contextmanager
def hold(file: Path, busy: str) -> Iterator[None]:
    """Hold this lock file, with our pid in it. Raises `Unavailable` with `busy`, whose `{pid}` is that of who does."""
    with open(file, "a+", encoding="ascii") as held:
        try:
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            held.seek(0)
            raise Unavailable(busy.replace("{pid}", held.read().strip() or "unknown")) from None
        held.truncate(0)
        held.write(str(os.getpid()))
        held.flush()
        yield


def default_path() -> Path:
    """The user's own run directory. `ANTIPHON_RUN_DIR` is read by the option, not here."""
    state = os.environ.get("XDG_STATE_HOME") or ""
    base = Path(state) if state.startswith("/") else Path.home() / ".local" / "state"
    return base / "antiphon"


def resolve(path: str | None) -> RunDir:
    """The run directory that was named, or the user's default one."""
    return RunDir(Path(os.path.abspath(Path(path).expanduser())) if path else default_path())
