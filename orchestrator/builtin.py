"""The agent that serves when nobody has written one: enough to try a stack with."""

from __future__ import annotations

from orchestrator.agent import VoiceAgent
from orchestrator.factory import SessionInfo

INSTRUCTIONS = """\
You are Antiphon.
This is the built-in agent: it answers simple questions, so that a new stack can be tried before an agent is written.
Our opening hours are from nine to five, Monday to Friday.
Our office is at number twelve, Station Road.
"""


def agent(session: SessionInfo) -> VoiceAgent:
    """A new conversation with the embedded engines."""
    return VoiceAgent(instructions=INSTRUCTIONS)
