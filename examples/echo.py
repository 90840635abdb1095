"""The smallest agent of your own making: it repeats what it was told, without asking an LLM.

antiphon run examples/echo.py
"""

from __future__ import annotations

from collections.abc import AsyncIterator

from orchestrator import AgentTask, ChatContext, FunctionContext, SessionInfo, VoiceAgent


class Echo(AgentTask):
    async def llm_node(self, chat_ctx: ChatContext, fnc_ctx: FunctionContext) -> AsyncIterator[str]:
        # What the caller has just said is the newest message. What is yielded here is shown, remembered and spoken.
        yield f"You said: {chat_ctx.messages[-1].text}"


def agent(session: SessionInfo) -> VoiceAgent:
    # Called once for each conversation. llm=None: no llm process is needed.
    return VoiceAgent(task=Echo(instructions="Repeat what you are told."), llm=None)
