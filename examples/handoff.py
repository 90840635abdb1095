"""Two tasks that hand the caller over to one another, each with a voice, functions and hooks of its own.

antiphon run examples/handoff.py

Say "I want to talk to Echo", and then "Let me talk to Alloy".
"""

from __future__ import annotations

import logging

from orchestrator import AgentTask, CallContext, ChatContext, ChatMessage, SessionInfo, VoiceAgent, ai_function
from services.tts import espeak

log = logging.getLogger(__name__)


class AlloyTask(AgentTask):
    def __init__(self, chat_ctx: ChatContext) -> None:
        super().__init__(
            instructions="You are Alloy, the receptionist. The kitchen opens at noon.",
            # A new task knows nothing of what was said to the one before it, unless it is given that.
            chat_ctx=chat_ctx,
            # Engines that a task does not name are those of the VoiceAgent.
            tts=espeak.TTS(voice="en-us+f2"),
        )

    async def on_enter(self) -> None:
        log.info("on_enter of Alloy")
        self.agent.say("This is Alloy.")

    async def on_exit(self) -> None:
        # Runs whatever the reason for leaving: a handoff, a caller who hangs up, a process that is stopped.
        log.info("on_exit of Alloy")

    async def on_end_of_turn(self, chat_ctx: ChatContext, new_message: ChatMessage) -> None:
        log.info("on_end_of_turn of Alloy: %s; %s", chat_ctx, new_message)

    # The LLM is told the function's name and this docstring. `context` is filled in, and the LLM is not told of it.
    @ai_function
    async def talk_to_echo(self, context: CallContext) -> tuple[AgentTask, str]:
        """Hand the caller over to Echo, who repeats what one says."""
        log.info("talk_to_echo: %s", context.function_call)
        # The message is said before Echo speaks. Return the task alone to say nothing.
        return EchoTask(known(context)), "I am transferring you to Echo."


class EchoTask(AgentTask):
    def __init__(self, chat_ctx: ChatContext) -> None:
        super().__init__(
            instructions="You are Echo. Repeat what the caller says.",
            chat_ctx=chat_ctx,
            tts=espeak.TTS(voice="en-gb+m3", rate=150),
        )

    async def on_enter(self) -> None:
        log.info("on_enter of Echo")
        self.agent.say("This is Echo.")

    async def on_exit(self) -> None:
        log.info("on_exit of Echo")

    @ai_function
    async def talk_to_alloy(self, context: CallContext) -> tuple[AgentTask, str]:
        """Hand the caller back to Alloy, the receptionist."""
        return AlloyTask(known(context)), "I am transferring you to Alloy."


def known(context: CallContext) -> ChatContext:
    """What was said so far, to whichever task; without the calls of functions that the next task has not got."""
    return context.agent.chat_ctx.copy(exclude_function_calls=True)


def agent(session: SessionInfo) -> VoiceAgent:
    return VoiceAgent(task=AlloyTask(ChatContext()))
