"""How a turn reads when it is printed: what was heard, what was answered, how long it took."""

from __future__ import annotations

from rich.markup import escape

from antiphon.turns import Turn, describe_stages

TROUBLE = {
    "nothing_heard": "speech was found, but no words in it",
    "no_reply": "the agent did not answer",
    "failed": "the answer failed",
}


def describe(turn: Turn) -> list[str]:
    """The lines of a turn that has ended, with rich's markup."""
    lines = []
    if turn.heard:
        lines.append(f"  [cyan]you[/]    {escape(turn.heard)}")
    if turn.answered:
        cut = " [yellow](interrupted)[/]" if turn.interrupted else ""
        lines.append(f"  [green]agent[/]  {escape(turn.answered)}{cut}")
    elif turn.interrupted:
        lines.append("  [yellow]agent  (interrupted before a word was heard)[/]")
    if turn.outcome in TROUBLE and not (turn.outcome == "no_reply" and turn.answered):
        lines.append(f"  [yellow]{TROUBLE[turn.outcome]}[/]")
    if turn.first_audio_ms is not None:
        stages = describe_stages(turn.stages)
        lines.append(
            f"         [dim]first audio after {turn.first_audio_ms:.0f} ms{f': {stages}' if stages else ''}[/]"
        )
    return lines
