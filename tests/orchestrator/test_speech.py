"""What of a reply was heard: by word times, in proportion to time, over several pieces."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.speech import Piece, Speech
from protocol.node import Word


def reply(*pieces: tuple[str, float]) -> Speech:
    """Pieces whose audio is complete, without word times."""
    speech = Speech()
    for text, duration_ms in pieces:
        speech.add_audio(speech.add_piece(text), duration_ms, last=True)
    return speech


@pytest.mark.parametrize(
    ("played_ms", "heard"),
    [(0, ""), (249, ""), (251, "one "), (800, "one two "), (1_399, "one two "), (1_401, "one two three")],
)
def test_by_word_times_a_word_counts_when_half_of_it_was_played(played_ms: float, heard: str) -> None:
    words = [Word(0, 0), Word(500, 4), Word(800, 8)]
    piece = Piece("one two three", start_ms=0.0, audio_ms=2_000.0, complete=True, words=words)
    assert piece.heard(played_ms) == heard


def test_in_proportion_to_time_only_whole_words_count() -> None:
    piece = Piece("aaaa bbbb cccc", start_ms=0.0, audio_ms=1_400.0, complete=True)
    assert [piece.heard(at) for at in (0, 240, 260, 740, 760, 1_190, 1_210)] == [
        "", "", "aaaa ", "aaaa ", "aaaa bbbb ", "aaaa bbbb ", "aaaa bbbb cccc",
    ]  # fmt: skip


def test_of_a_piece_that_is_still_being_made_no_more_is_claimed_than_usual_speech_would_say() -> None:
    text = "word " * 30
    speech = Speech()
    number = speech.add_piece(text)
    speech.add_audio(number, 1_000, last=False)
    assert 10 <= len(speech.heard(1_000)) <= 20
    speech.add_audio(number, 0, last=True)
    assert speech.heard(1_000) == text.strip()


def test_of_word_times_that_are_not_all_there_the_last_word_known_is_the_last_one_heard() -> None:
    piece = Piece("one two three four", start_ms=0.0, audio_ms=5_000.0, words=[Word(0, 0), Word(500, 4)])
    assert piece.heard(4_000) == "one two "


def test_word_times_out_of_order_never_make_less_heard_of_more() -> None:
    words = [Word(0, 0), Word(100, 8), Word(200, 4)]
    piece = Piece("one two three", start_ms=0.0, audio_ms=1_000.0, complete=True, words=words)
    assert [piece.heard(at) for at in (60, 160, 700)] == ["one two ", "one two ", "one two three"]


def test_pieces_are_heard_one_after_the_other() -> None:
    speech = reply(("Hello there. ", 1_000), ("How are you?", 1_000))
    assert speech.text == "Hello there. How are you?"
    assert speech.audio_ms == 2_000
    assert [speech.heard(at) for at in (0, 990, 1_000, 1_700, 2_000)] == [
        "", "Hello there.", "Hello there.", "Hello there. How are", "Hello there. How are you?",
    ]  # fmt: skip


def test_a_piece_without_sound_counts_with_what_is_heard_around_it() -> None:
    speech = reply(("Yes ", 500), ("– ", 0), ("of course", 500), (" …", 0), ("", 0))
    assert speech.heard(100) == ""
    assert speech.heard(500) == "Yes –"
    assert speech.heard(900) == "Yes – of course …"
    assert speech.heard(1_000) == speech.text


def test_a_piece_whose_end_was_never_told_is_whole_once_the_next_one_is_heard() -> None:
    speech = Speech()
    speech.add_audio(speech.add_piece("One two three four. "), 100, last=False)
    speech.add_audio(speech.add_piece("Five."), 100, last=True)
    assert speech.heard(200) == "One two three four. Five."


def test_of_a_reply_without_audio_nothing_was_heard() -> None:
    assert Speech().heard(1_000) == ""
    assert Speech().spoken(1_000) == ""
    assert reply(("– ", 0)).heard(1_000) == ""


def test_the_first_audio_of_a_piece_is_told() -> None:
    speech = Speech()
    number = speech.add_piece("Hello")
    assert [
        speech.add_audio(number, duration_ms, last=False) for duration_ms in (0, 20, 20)
    ] == [False, True, False]  # fmt: skip


def test_a_caption_shows_the_pieces_that_have_begun_and_what_lies_between_them() -> None:
    speech = reply(("Yes ", 500), ("– ", 0), ("of course", 500))
    assert [speech.spoken(at) for at in (-1, 0, 499, 500)] == ["", "Yes ", "Yes ", "Yes – of course"]


# --- whatever an engine sends -----------------------------------------------------------------------------------------

texts = st.text(alphabet="ab ,.–\n", max_size=40)
audio = st.lists(st.integers(0, 2_000), max_size=4)
words = st.lists(st.builds(Word, st.integers(0, 4_000), st.integers(0, 60)), max_size=6)


def made(pieces: list[tuple[str, list[int], list[Word], bool]]) -> Speech:
    speech = Speech()
    for text, durations, times, complete in pieces:
        number = speech.add_piece(text)
        speech.pieces[number].words += times
        for duration_ms in durations:
            speech.add_audio(number, duration_ms, last=False)
        speech.add_audio(number, 0, last=complete)
    return speech


@settings(max_examples=500, deadline=None)
@given(
    st.lists(st.tuples(texts, audio, words, st.booleans()), max_size=5),
    st.lists(st.floats(-10, 30_000), min_size=2, max_size=12),
)
def test_what_was_heard_is_the_beginning_of_the_text_and_grows_with_what_was_played(
    pieces: Any, played: list[float]
) -> None:
    speech = made(pieces)
    before = ""
    for played_ms in sorted(played):
        heard = speech.heard(played_ms)
        assert speech.text.strip().startswith(heard)
        assert heard.startswith(before)
        before = heard


@given(st.lists(st.tuples(texts, st.integers(1, 2_000)), min_size=1, max_size=5))
def test_what_was_played_to_its_end_was_heard_to_its_end(pieces: list[tuple[str, float]]) -> None:
    speech = reply(*pieces)
    assert speech.heard(speech.audio_ms) == speech.text.strip()
