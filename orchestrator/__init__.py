"""Sessions, tasks, turns, speech, the dispatcher and the ingest: everything that makes a conversation.

What a user writes is made of the names that are listed here.
"""

from orchestrator.agent import VoiceAgent
from orchestrator.chat import ChatChunk, ChatContext, ChatMessage
from orchestrator.factory import SessionInfo
from orchestrator.task import AgentTask
from protocol.audio import AudioFrame

__all__ = ["AgentTask", "AudioFrame", "ChatChunk", "ChatContext", "ChatMessage", "SessionInfo", "VoiceAgent"]
