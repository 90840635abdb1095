"""The segmenter: probabilities in, speech events out."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.errors import OptionError
from protocol.node import Speech
from services.vad.segmenter import Segmenter, SpeechEvent, SpeechOptions

WINDOW_MS = 32


class Options(SpeechOptions, frozen=True, kw_only=True):
    """The options of some engine."""

    engine = "some"


def events(probabilities: list[float], window_ms: float = WINDOW_MS, **options: float) -> list[SpeechEvent]:
    segmenter = Segmenter(Options(**options), window_ms)  # type: ignore[arg-type]
    return [event for probability in probabilities for event in segmenter.feed(probability)]


def test_speech_starts_with_its_first_window_once_there_is_enough_of_it() -> None:
    segmenter = Segmenter(Options(), WINDOW_MS)
    assert [segmenter.feed(probability) for probability in (0.1, 0.9, 0.9, 0.9)] == [
        [],
        [],
        [SpeechEvent("start", 32)],
        [],
    ]
    assert segmenter.speaking


def test_one_loud_window_is_a_click_and_no_speech() -> None:
    assert events([0.1, 0.9, 0.1, 0.9, 0.1]) == []


def test_with_no_minimum_one_window_is_speech() -> None:
    assert events([0.9], min_speech_ms=0) == [SpeechEvent("start", 0)]


def test_speech_ends_at_its_last_window_after_enough_silence() -> None:
    assert events([0.9] * 3 + [0.1] * 7) == [SpeechEvent("start", 0)]
    assert events([0.9] * 3 + [0.1] * 8) == [SpeechEvent("start", 0), SpeechEvent("end", 96, 256)]


def test_a_short_pause_does_not_end_speech() -> None:
    assert events(([0.9] * 3 + [0.1] * 7) * 5) == [SpeechEvent("start", 0)]


def test_silence_is_reported_window_by_window_until_it_has_lasted_long_enough() -> None:
    probabilities = [0.9] * 2 + [0.1] * 50
    assert events(probabilities, min_silence_ms=64, report_silence_ms=150)[1:] == [
        SpeechEvent("end", 64, 64),
        SpeechEvent("silence", 64, 96),
        SpeechEvent("silence", 64, 128),
    ]


def test_the_end_is_reported_even_if_silence_is_not() -> None:
    assert events([0.9] * 2 + [0.1] * 50, report_silence_ms=0)[1:] == [SpeechEvent("end", 64, 256)]


def test_silence_that_no_speech_came_before_is_not_reported() -> None:
    assert events([0.1] * 200) == []


def test_between_the_thresholds_speech_goes_on() -> None:
    assert events([0.9] * 2 + [0.4] * 50) == [SpeechEvent("start", 0)]


def test_between_the_thresholds_silence_goes_on() -> None:
    assert events([0.4] * 50) == []
    assert events([0.9] * 2 + [0.1] + [0.4] * 7, report_silence_ms=0)[1:] == [SpeechEvent("end", 64, 256)]


def test_the_thresholds_themselves_are_speech() -> None:
    assert events([0.5, 0.35]) == [SpeechEvent("start", 0)]
    assert events([0.499] * 9) == []


def test_a_click_in_the_silence_holds_its_report_back_but_the_end_stays_where_it_was() -> None:
    assert events([0.9] * 2 + [0.1, 0.1, 0.9, 0.1], min_silence_ms=64)[1:] == [
        SpeechEvent("end", 64, 64),
        SpeechEvent("silence", 64, 128),
    ]


def test_speech_may_start_again() -> None:
    assert events([0.9] * 2 + [0.1] * 3 + [0.9] * 2, min_silence_ms=96)[1:] == [
        SpeechEvent("end", 64, 96),
        SpeechEvent("start", 160),
    ]


def test_times_do_not_drift_with_windows_of_uneven_length() -> None:
    window_ms = 1000 / 44.1  # no whole number
    *_, end = events([0.9] * 44_100 + [0.1] * 12, window_ms, min_silence_ms=250)
    assert end == SpeechEvent("end", 1_000_000, 272)


def test_an_event_has_the_fields_of_the_message() -> None:
    message = Speech(0, 0, 0, *SpeechEvent("end", 96, 256))
    assert (message.event, message.at_ms, message.silence_ms) == ("end", 96, 256)


def test_a_deactivation_threshold_above_the_other_is_refused() -> None:
    with pytest.raises(OptionError, match=r"'deactivation_threshold' is 0\.6; it must be at most activation_threshold"):
        Options(activation_threshold=0.5, deactivation_threshold=0.6)


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("activation_threshold", 1.1),
        ("activation_threshold", float("nan")),
        ("deactivation_threshold", -0.1),
        ("deactivation_threshold", float("nan")),
        ("min_speech_ms", -1),
        ("min_speech_ms", 501),
        ("min_silence_ms", "long"),
        ("report_silence_ms", 60_001),
    ],
)
def test_an_impossible_option_is_refused_by_name(option: str, value: object) -> None:
    with pytest.raises(OptionError, match="threshold" if value != value else option):
        Options.from_wire({option: value})


def probabilities() -> st.SearchStrategy[list[float]]:
    runs = st.tuples(st.sampled_from([0.0, 0.2, 0.35, 0.4, 0.5, 0.8, 1.0]), st.integers(1, 12))
    return st.lists(runs, max_size=30).map(lambda parts: [value for value, count in parts for _ in range(count)])


@given(probabilities(), st.integers(0, 300), st.integers(0, 600), st.integers(0, 900))
def test_whatever_is_heard_the_events_make_sense(
    heard: list[float], min_speech_ms: int, min_silence_ms: int, report_silence_ms: int
) -> None:
    options = Options(min_speech_ms=min_speech_ms, min_silence_ms=min_silence_ms, report_silence_ms=report_silence_ms)
    segmenter = Segmenter(options, WINDOW_MS)
    before = SpeechEvent("silence", 0, 0)
    for window, probability in enumerate(heard):
        now = (window + 1) * WINDOW_MS
        found = segmenter.feed(probability)
        assert len(found) <= 1
        for event in found:
            if event.event == "start":
                assert before.event != "start"
                assert before.at_ms <= event.at_ms <= now - min_speech_ms
                assert now - event.at_ms < max(min_speech_ms, 1) + WINDOW_MS  # not later than it must be
                assert heard[event.at_ms // WINDOW_MS] >= options.activation_threshold
            elif event.event == "end":
                assert before.event == "start"
                assert before.at_ms + min_speech_ms <= event.at_ms == now - event.silence_ms
                assert min_silence_ms <= event.silence_ms < max(min_silence_ms, 1) + WINDOW_MS
            else:
                assert before.event != "start"
                assert (event.at_ms, event.silence_ms) == (before.at_ms, now - before.at_ms)
                assert event.silence_ms <= report_silence_ms
            before = event
    assert segmenter.speaking == (before.event == "start")


@given(probabilities())
def test_all_silence_up_to_the_limit_is_reported_unless_it_may_be_speech(heard: list[float]) -> None:
    quiet = [min(probability, 0.3) for probability in heard][:80]
    found = events([0.9] * 4 + quiet, report_silence_ms=60_000)
    assert [event.silence_ms for event in found[1:]] == list(range(256, len(quiet) * WINDOW_MS + 1, WINDOW_MS))
    assert all(later.at_ms == 128 for later in itertools.islice(found, 1, None))
