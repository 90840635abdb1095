"""When audio arrived, and which stage took how much of a turn's time."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.timeline import MARK_EVERY_MS, MARKS, Arrivals, TurnTimes
from protocol.ingest import StageTimes


def in_real_time(duration_ms: int, began: float = 100.0) -> Arrivals:
    arrivals = Arrivals()
    for position_ms in range(20, duration_ms + 1, 20):
        arrivals.note(position_ms, began + position_ms / 1000)
    return arrivals


@pytest.mark.parametrize("position_ms", [10, 20, 155, 960, 1_000])
def test_a_position_arrived_when_its_audio_did(position_ms: float) -> None:
    assert in_real_time(1_000).at(position_ms, now=200.0) == pytest.approx(100.0 + position_ms / 1000, abs=0.001)


def test_the_end_of_audio_that_stopped_is_reckoned_and_not_taken_to_be_now() -> None:
    arrivals = in_real_time(1_000)  # its last mark is before 1 s
    assert arrivals.at(1_000, now=105.0) == pytest.approx(101.0)


def test_nothing_arrives_later_than_now() -> None:
    assert in_real_time(1_000).at(60_000, now=101.5) == 101.5
    assert Arrivals().at(500, now=3.0) == 3.0


def test_audio_that_came_at_once_arrived_then_and_not_earlier() -> None:
    arrivals = Arrivals()
    arrivals.note(20, 50.0)
    for position_ms in range(40, 2_001, 20):  # a recording: two seconds in no time
        arrivals.note(position_ms, 60.0)
    assert arrivals.at(1_500, now=61.0) == 60.0
    assert 50.0 <= arrivals.at(130, now=61.0) <= 60.0


def test_what_is_remembered_is_bounded_and_older_positions_are_reckoned_back() -> None:
    arrivals = in_real_time(60_000)
    assert arrivals.at(60_000 - 2 * MARKS * MARK_EVERY_MS, now=200.0) == pytest.approx(100.0 + 60 - 12.8, abs=0.2)


def test_each_stage_has_its_share_and_they_add_up() -> None:
    times = TurnTimes(
        speech_end_at=10.0,
        endpoint_at=10.5,
        commit_at=10.7,
        first_token_at=10.8,
        first_piece_at=11.0,
        first_audio_at=11.1,
    )
    assert times.stages() == StageTimes(
        endpointing_ms=500, stt_ms=200, llm_ms=300, llm_first_token_ms=100, tts_ms=100, total_ms=1_100
    )


def test_a_turn_in_writing_has_no_endpointing_and_no_stt() -> None:
    times = TurnTimes(commit_at=10.0, first_token_at=10.1, first_piece_at=10.2, first_audio_at=10.3)
    assert times.stages() == StageTimes(llm_ms=200, llm_first_token_ms=100, tts_ms=100, total_ms=300)


def test_a_stage_that_did_not_run_has_no_share() -> None:
    assert TurnTimes().stages() == StageTimes()
    assert TurnTimes(commit_at=10.0, first_token_at=10.1).stages() == StageTimes(llm_first_token_ms=100)
    assert TurnTimes(speech_end_at=9.0, endpoint_at=9.5, commit_at=9.6).stages() == StageTimes(500, 100)


def test_a_turn_that_waited_for_a_reply_to_end_has_all_of_it_as_endpointing() -> None:
    assert TurnTimes(speech_end_at=9.0, commit_at=12.0).stages() == StageTimes(3_000, 0)


@pytest.mark.parametrize("first_piece_at", [0.0, 13.0])
def test_a_tts_node_that_speaks_without_a_piece_of_text_has_the_whole_share(first_piece_at: float) -> None:
    stages = TurnTimes(commit_at=10.0, first_piece_at=first_piece_at, first_audio_at=12.0).stages()
    assert stages == StageTimes(tts_ms=2_000, total_ms=2_000)


moments = st.one_of(st.just(0.0), st.floats(1.0, 100.0))


@given(moments, moments, st.floats(1.0, 100.0), moments, moments, st.floats(0.0, 100.0))
def test_whatever_happened_when_the_shares_of_a_spoken_reply_add_up_to_the_total(
    speech_end_at: float, endpoint_at: float, commit_at: float, token_at: float, piece_at: float, audio_after: float
) -> None:
    piece_at = max(piece_at, commit_at) if piece_at else 0.0
    times = TurnTimes(speech_end_at, endpoint_at, commit_at, token_at, piece_at, commit_at + audio_after)
    stages = times.stages()
    parts = [stages.endpointing_ms, stages.stt_ms, stages.llm_ms, stages.tts_ms]
    assert sum(part for part in parts if part >= 0) == pytest.approx(stages.total_ms, abs=0.05)
    assert all(part >= 0 or part == -1 for part in parts)
