"""Which engine serves a stage: the task's, else the agent's, else the embedded one."""

from __future__ import annotations

from typing import Any

import pytest

from orchestrator.agent import VoiceAgent
from orchestrator.engines import DEFAULTS, NOT_GIVEN, choose
from orchestrator.task import AgentTask
from protocol.engine import SERVICES, EngineSpec
from protocol.errors import ConfigurationError
from services.stt import pocketsphinx
from services.tts import espeak


def test_with_nothing_given_the_embedded_engines_serve() -> None:
    engines = VoiceAgent(instructions="Be brief.").engines()
    assert engines.used == [DEFAULTS[service] for service in SERVICES]


def test_the_first_choice_that_was_given_counts() -> None:
    klatt, other = espeak.TTS(voice="en-gb+klatt4"), EngineSpec("tts", "other")
    assert choose("tts", NOT_GIVEN, klatt, other) == klatt.spec()
    assert choose("tts", other, klatt) == other
    assert choose("tts", NOT_GIVEN, NOT_GIVEN) == DEFAULTS["tts"]


def test_none_switches_a_stage_off_and_is_no_missing_choice() -> None:
    assert choose("tts", None, espeak.TTS()) is None
    agent = VoiceAgent(instructions="Be brief.", tts=None, stt=None)
    assert [spec.service for spec in agent.engines().used] == ["vad", "llm"]


def test_a_task_overrides_the_agent() -> None:
    agent = VoiceAgent(task=AgentTask(instructions="Be brief.", tts=None), tts=espeak.TTS())
    assert agent.engines().tts is None


@pytest.mark.parametrize("choice", ["espeak", espeak, espeak.TTS, 3, EngineSpec])
def test_what_is_no_option_object_is_refused_by_name(choice: Any) -> None:
    with pytest.raises(ConfigurationError, match=r"^tts=.*expected an option object such as"):
        choose("tts", choice)


def test_an_engine_in_the_wrong_place_is_refused_by_name() -> None:
    with pytest.raises(ConfigurationError, match="tts=pocketsphinx: this is an engine for stt, not for tts"):
        choose("tts", pocketsphinx.STT())


def test_not_given_says_so_in_a_signature() -> None:
    assert repr(NOT_GIVEN) == "NOT_GIVEN"
