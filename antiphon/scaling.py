"""Scaling a running stack: which processes to start and stop (pure), and doing so without touching any other.

Each process that is added is a program of its own, in a file that supervisord includes: a larger `numprocs` would
restart the whole group (measured: every pid changes).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from antiphon import conf, exit_codes
from antiphon.rundir import RunDir
from antiphon.stack import ORCHESTRATOR, Stack, observe, service_of
from antiphon.stopping import DRAIN_S, remove_stale_sockets, stop_all
from antiphon.supervisord import Process, Supervisord
from antiphon.waiting import wait_until
from protocol.engine import SERVICES
from protocol.errors import ConfigurationError, Unavailable

SCALABLE = (*SERVICES, ORCHESTRATOR)
MAX_PROCESSES = 99  # of one service: their numbers have two digits
EXPECTED_EXITS = (exit_codes.OK, exit_codes.CONFIGURATION)  # supervisord does not start these again by itself


@dataclass
class Plan:
    """What to do for one service."""

    service: str
    start: list[Process] = field(default_factory=list)  # known to supervisord, ended
    add: list[int] = field(default_factory=list)  # numbers of new ones
    stop: list[Process] = field(default_factory=list)

    @property
    def new_names(self) -> list[str]:
        """Names of the processes that will be running afterwards and are not now."""
        return [process.name for process in self.start] + [f"{self.service}-{number:02d}" for number in self.add]


def plan(service: str, wanted: int, stack: Stack) -> Plan:
    """Decide what to start and stop so that `wanted` processes of the service run.

    Those that are stopped are the least used; of equals the one that was added last.
    """
    known = [process for process in stack.processes if service_of(process.name) == service]
    running = [process for process in known if _counts(process)]
    more = wanted - len(running)
    if more >= 0:
        ended = [process for process in known if process.ended and process not in running][:more]
        taken = {process.name for process in known}
        numbers = (number for number in range(1, 10 * MAX_PROCESSES) if f"{service}-{number:02d}" not in taken)
        return Plan(service, ended, [next(numbers) for _ in range(more - len(ended))])
    use = _use(stack)
    # One that serves nobody at all (it cannot be started, say) goes first.
    running.sort(key=lambda process: process.name, reverse=True)
    running.sort(key=lambda process: use.get(process.name, -1))
    return Plan(service, stop=running[:-more])


def scale(
    run_dir: RunDir, template: str, wanted: dict[str, int], timeout_s: float, tell: Callable[[str], None]
) -> list[Plan]:
    """Start and stop processes until each service has the wanted number; waits until the new ones are ready and the
    others have drained.

    Raises `ConfigurationError` for what cannot be scaled, `Unavailable` when something is not ready in time.
    """
    for service, number in wanted.items():
        check(service, number)
    stack = observe(run_dir)
    if stack.supervisord is None:
        raise Unavailable(
            f"no supervisord runs in {run_dir.path}, so there is nothing to scale; start one with: antiphon up"
        )
    supervisord = Supervisord(run_dir.supervisor_socket)
    plans = [plan(service, number, stack) for service, number in wanted.items()]
    _start(supervisord, run_dir, template, plans, tell)
    stopped = [process for one in plans for process in one.stop]
    if stopped:
        tell(f"draining {', '.join(process.name for process in stopped)}")
        stop_all(supervisord, stopped, DRAIN_S)
        _forget(supervisord, run_dir, stopped)
        remove_stale_sockets(run_dir)
    _wait_until_ready(run_dir, [name for one in plans for name in one.new_names], timeout_s)
    return plans


def check(service: str, number: int) -> None:
    """Raise `ConfigurationError` unless the service can have so many processes."""
    if service not in SCALABLE:
        raise ConfigurationError(f"there is no service {service!r} to scale; there are {', '.join(SCALABLE)}")
    least = 1 if service == ORCHESTRATOR else 0
    if not least <= number <= MAX_PROCESSES:
        hint = " (`antiphon down` stops everything)" if number < least and service == ORCHESTRATOR else ""
        raise ConfigurationError(f"{service}={number}: the number is from {least} to {MAX_PROCESSES}{hint}")


def _counts(process: Process) -> bool:
    """It runs, or supervisord will start it again without being asked."""
    return process.running or (process.state == "EXITED" and process.exit_status not in EXPECTED_EXITS)


def _use(stack: Stack) -> dict[str, int]:
    """How much each process is used: slots of a node, sessions of an orchestrator."""
    use = {name: node.status.used for name, node in stack.nodes.items()}
    use.update({name: len(snapshot.sessions) for name, snapshot in stack.snapshots.items()})
    return use


def _start(
    supervisord: Supervisord, run_dir: RunDir, template: str, plans: list[Plan], tell: Callable[[str], None]
) -> None:
    added = []
    for one in plans:
        for number in one.add:
            name = f"{one.service}-{number:02d}"
            file = conf.program_file(run_dir, name)
            text = conf.program(template, run_dir, one.service, number)
            partial = file.with_suffix(".new")  # supervisord may read the folder at any time
            partial.write_text(text, encoding="utf-8")
            partial.replace(file)
            added.append(name)
    names = [name for one in plans for name in one.new_names]
    if names:
        tell(f"starting {', '.join(names)}")
    if added:
        supervisord.reload_config()
        for name in added:
            supervisord.add_group(name)
    for one in plans:
        for process in one.start:
            supervisord.start(process.id)


def _forget(supervisord: Supervisord, run_dir: RunDir, stopped: list[Process]) -> None:
    """Take the programs that `scale` had added out of supervisord; the shipped ones stay, stopped."""
    for process in stopped:
        file = conf.program_file(run_dir, process.name)
        if process.group == process.name and file in conf.added_files(run_dir):
            supervisord.remove_group(process.group)
            file.unlink()


def _wait_until_ready(run_dir: RunDir, names: list[str], timeout_s: float) -> None:
    missing: list[str] = []

    def ready() -> bool:
        stack = observe(run_dir, timeout_s=0.5)
        found = [one for one in stack.missing() if one.name in names]
        missing[:] = [f"{one.name} {one.why}" for one in found] or _not_joined(stack, names)
        return not missing or any(one.hopeless for one in found)

    if names:
        wait_until(ready, timeout_s, every_s=0.1)
    if missing:
        raise Unavailable(f"not everything that was started is ready: {'; '.join(missing)}. See: antiphon logs")


def _not_joined(stack: Stack, names: list[str]) -> list[str]:
    """New orchestrators that not every node has found yet: a session there could still be refused."""
    return [
        f"{name} has not been found by {node}"
        for name in names
        if name in stack.snapshots
        for node, known in stack.nodes.items()
        if name not in known.registered_at
    ]
