"""`antiphon status`: what runs on this machine, and what is missing."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from antiphon.options import json_option, run_dir_option

if TYPE_CHECKING:
    from rich.table import Table

    from antiphon.rundir import RunDir
    from antiphon.stack import Missing, Stack

STATE_COLORS = {"ready": "green", "loading": "yellow", "draining": "yellow"}


@click.command(short_help="Show what runs: orchestrators, nodes, sessions.")
@json_option
@run_dir_option
def status(run_dir: RunDir, json: bool) -> None:
    """Show orchestrators, nodes (service, engine, pid, slots in use, state), sessions, and what is missing.

    A node that died is gone from here within a second; what supervisord does about it is shown instead.

    \b
    Exit codes: 0 all is well; 1 something is missing; 3 nothing runs.
    """
    from antiphon import console, exit_codes
    from antiphon.stack import observe

    stack = observe(run_dir)
    missing = stack.missing()
    if json:
        console.print_json(document(stack, missing))
    elif stack.empty:
        console.out.print(f"Nothing runs in {console.short(run_dir.path)}. Start the stack with: antiphon up")
    else:
        _print(stack, missing)
    click.get_current_context().exit(exit_codes.NOT_RUNNING if stack.empty else int(bool(missing)))


def document(stack: Stack, missing: list[Missing]) -> dict[str, Any]:
    """What `--json` prints. `nodes` are those that are registered now, over all orchestrators."""
    import msgspec

    snapshots = {name: msgspec.to_builtins(snapshot) for name, snapshot in stack.snapshots.items()}
    orchestrators = []
    sessions = []
    for name, snapshot in stack.snapshots.items():
        fields = dict(zip(snapshot.__struct_fields__, snapshots[name][1:], strict=True))
        sessions += [{"orchestrator": name, **session} for session in fields.pop("sessions")]
        nodes = fields.pop("nodes")
        orchestrators.append({**fields, "nodes": len(nodes), "sessions": len(snapshot.sessions)})
    return {
        "run_dir": str(stack.run_dir.path),
        "supervisord": stack.supervisord,
        "orchestrators": orchestrators,
        "nodes": [
            {**msgspec.to_builtins(node.status), "registered_at": node.registered_at, "ready_at": node.ready_at}
            for node in stack.nodes.values()
        ],
        "sessions": sessions,
        "processes": [
            {"name": process.name, "state": process.state, "pid": process.pid, "log": str(process.log)}
            for process in stack.processes
        ],
        "missing": [{"name": one.name, "why": one.why} for one in missing],
    }


def _print(stack: Stack, missing: list[Missing]) -> None:
    from antiphon.console import out

    if stack.snapshots:
        out.print(_orchestrators(stack))
    if stack.nodes:
        out.print()
        out.print(_nodes(stack))
    stopped = [process.name for process in stack.processes if process.state == "STOPPED"]
    if stopped:
        out.print(f"\n[dim]Stopped by `antiphon scale`: {', '.join(stopped)}[/]")
    sessions = [session for snapshot in stack.snapshots.values() for session in snapshot.sessions]
    out.print()
    out.print(_sessions(stack) if sessions else "[dim]No sessions.[/]")
    if stack.supervisord is None:
        out.print("\n[yellow]No supervisord: nothing here is started again when it ends.[/]")
    if missing:
        out.print("\n[red]Missing:[/]")
        for one in missing:
            out.print(f"  {one.name} {one.why}" if one.process else f"  {one.why}")
        out.print("[dim]antiphon logs shows why; antiphon doctor checks this machine.[/]")


def _orchestrators(stack: Stack) -> Table:
    from antiphon.console import table

    rows = table("orchestrator", "pid", "up", "agent", "nodes", "sessions", "state", right=("pid", "nodes", "sessions"))
    for name, snapshot in stack.snapshots.items():
        state = "[yellow]draining[/]" if snapshot.draining else "[green]ready[/]"
        counts = (str(len(snapshot.nodes)), str(len(snapshot.sessions)))
        rows.add_row(name, str(snapshot.pid), span(snapshot.uptime_s), snapshot.agent or "built-in", *counts, state)
    return rows


def _nodes(stack: Stack) -> Table:
    from antiphon.console import table

    rows = table("node", "engine", "host", "pid", "slots", "state", right=("pid", "slots"))
    for name, node in stack.nodes.items():
        now = node.status
        state = f"[{STATE_COLORS.get(now.state, 'red')}]{now.state}[/]"
        if len(node.registered_at) < len(stack.snapshots):
            state += f" [yellow]at {', '.join(node.registered_at)} only[/]"
        slots = f"{now.used}/{now.slots}"
        rows.add_row(name, f"{now.service}/{now.engine}", now.host, str(now.pid), slots, state)
    return rows


def _sessions(stack: Stack) -> Table:
    from antiphon.console import table

    rows = table("session", "user", "agent", "caller", "turns", "age", "nodes", right=("turns",))
    for snapshot in stack.snapshots.values():
        for session in snapshot.sessions:
            nodes = " ".join(session.nodes.values())
            age = span(session.age_s)
            who = (session.session[:8], session.user_id or "-", session.agent, session.user)
            rows.add_row(*who, str(session.turns), age, nodes)
    return rows


def span(seconds: float) -> str:
    """A length of time as a person says it: `12 s`, `5 min`, `3 h`, `2 d`."""
    for unit, size, limit in (("s", 1, 120), ("min", 60, 120), ("h", 3600, 48)):
        if seconds < limit * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds / 86400:.0f} d"
