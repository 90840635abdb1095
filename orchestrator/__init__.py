"""Sessions, tasks, turns, speech, the dispatcher and the ingest: everything that makes a conversation.

What a user writes is made of the names that are listed here.
"""

from orchestrator.agent import VoiceAgent
from orchestrator.chat import ChatChunk, ChatContext, ChatItem, ChatMessage, FunctionCall, FunctionOutput, Handoff
from orchestrator.factory import SessionInfo
from orchestrator.functions import AIError, AIFunction, CallContext, FunctionContext, StopResponse, ai_function
from orchestrator.hooks import Context, LastResponse
from orchestrator.inline import InlineTask
from orchestrator.speech_handle import SpeechHandle
from orchestrator.stages import SpeechEvent
from orchestrator.task import AgentTask
from orchestrator.task_failed import ConversationOver, TaskFailed
from orchestrator.turn_detector import TurnDetector
from protocol.audio import AudioFrame

__all__ = [
    "AIError",
    "AIFunction",
    "AgentTask",
    "AudioFrame",
    "CallContext",
    "ChatChunk",
    "ChatContext",
    "ChatItem",
    "ChatMessage",
    "Context",
    "ConversationOver",
    "FunctionCall",
    "FunctionContext",
    "FunctionOutput",
    "Handoff",
    "InlineTask",
    "LastResponse",
    "SessionInfo",
    "SpeechEvent",
    "SpeechHandle",
    "StopResponse",
    "TaskFailed",
    "TurnDetector",
    "VoiceAgent",
    "ai_function",
]
