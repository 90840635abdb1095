"""The sentence cutter: pieces for tts, while the text streams."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.sentences import LONGEST_PIECE, SentenceCutter


def cut(text: str, size: int = 1) -> list[str]:
    """The pieces of a text that streams in parts of `size` characters."""
    cutter = SentenceCutter()
    pieces = [piece for at in range(0, len(text), size) for piece in cutter.feed(text[at : at + size])]
    return pieces + cutter.flush()


@pytest.mark.parametrize("size", [1, 3, 7, 1000])
@pytest.mark.parametrize(
    ("text", "pieces"),
    [
        ("It is open. Come in!", ["It is open. ", "Come in!"]),
        ("That is 3.50 dollars. Thanks.", ["That is 3.50 dollars. ", "Thanks."]),
        ("Dr. Smith is here. Mr. Jones is not.", ["Dr. Smith is here. ", "Mr. Jones is not."]),
        ("Really? Yes! No.", ["Really? ", "Yes! ", "No."]),
        ("你好。今天天气很好！是吗？", ["你好。", "今天天气很好！", "是吗？"]),
        ("यह एक वाक्य है। यह दूसरा है।", ["यह एक वाक्य है। ", "यह दूसरा है।"]),
    ],
)
def test_sentences_are_whole_however_the_text_streams(text: str, pieces: list[str], size: int) -> None:
    assert cut(text, size) == pieces


def test_a_sentence_waits_until_the_next_one_has_begun() -> None:
    cutter = SentenceCutter()
    assert cutter.feed("It costs 3.") == []
    assert cutter.feed("50 today. ") == []
    assert cutter.feed("R") == ["It costs 3.50 today. "]


def test_the_first_piece_is_cut_at_a_clause_and_no_later_one() -> None:
    text = "Good morning, how are you, today? I am well, thank you."
    assert cut(text) == ["Good morning, ", "how are you, today? ", "I am well, thank you."]


def test_a_first_clause_of_one_word_is_not_spoken_alone() -> None:
    assert cut("Well, that is fine. Bye.") == ["Well, that is fine. ", "Bye."]


def test_a_number_with_a_comma_is_no_clause() -> None:
    assert cut("We have 1,000 rooms. Yes.") == ["We have 1,000 rooms. ", "Yes."]


def test_a_sentence_without_end_is_cut_between_words() -> None:
    pieces = cut("word " * 400)
    assert all(len(piece) <= LONGEST_PIECE for piece in pieces)
    assert all(piece.endswith(" ") for piece in pieces)


@given(st.text(max_size=1500), st.integers(1, 50))
def test_the_pieces_put_together_are_the_text(text: str, size: int) -> None:
    pieces = cut(text, size)
    assert "".join(pieces) == text
    assert all(0 < len(piece) <= LONGEST_PIECE for piece in pieces)
