"""What of a text counts as heard when a tts_node has spoken other words for it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.as_written import as_written

WRITTEN = "It is **** cold, and SQL is hard. I know."
SPOKEN = "It is beep cold, and S Q L is hard. I know."

TEXTS = st.lists(st.sampled_from(["a", "b", "c", "SQL", "sequel", "it."]), max_size=12).map(" ".join)


@pytest.mark.parametrize(
    ("heard", "written"),
    [
        ("", ""),
        ("It", "It"),
        ("It is beep", "It is ****"),
        ("It is beep cold, and", "It is **** cold, and"),
        ("It is beep cold, and S Q", "It is **** cold, and"),  # half a word was not heard
        ("It is beep cold, and S Q L", "It is **** cold, and SQL"),
        (SPOKEN, WRITTEN),
    ],
)
def test_what_was_heard_is_told_in_the_words_in_which_it_was_written(heard: str, written: str) -> None:
    assert as_written(WRITTEN, SPOKEN, heard, complete=True) == written


def test_what_was_left_out_of_the_speech_counts_with_what_is_spoken_around_it() -> None:
    assert as_written("One (aside) two (end)", "One two", "One two", complete=True) == "One (aside) two (end)"
    assert as_written("One (aside) two (end)", "One two", "One two", complete=False) == "One (aside) two"
    assert as_written("One (aside) two (end)", "One two", "One", complete=True) == "One"


def test_a_translation_is_shared_out() -> None:
    assert as_written("one two three four", "eins zwei drei vier", "eins zwei", complete=True) == "one two"


def test_what_is_spoken_as_it_was_written_is_told_as_it_was_heard() -> None:
    assert as_written("One,  two. Three.", "One,  two. ", "One,  two.", complete=False) == "One,  two."


@given(written=TEXTS, spoken=TEXTS, complete=st.booleans())
def test_it_is_always_a_beginning_of_what_was_written_and_more_is_never_less(
    written: str, spoken: str, complete: bool
) -> None:
    words = spoken.split()
    told = [
        as_written(written, spoken, " ".join(words[:number]), complete=complete) for number in range(len(words) + 1)
    ]
    assert told[0] == "" or not words
    assert all(text == "" or written.startswith(text) or text == spoken for text in told)
    assert [len(text) for text in told] == sorted(len(text) for text in told)
