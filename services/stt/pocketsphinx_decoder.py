"""A pocketsphinx decoder as the engine uses it: from audio to text and confidence. Blocks; imports it when made."""

from __future__ import annotations

import math
import re
import tempfile
from typing import Any

from services.stt.pocketsphinx_messages import Search

SAMPLE_RATE = 16_000  # Hz, of the model in the wheel
FILLER = "<["  # first character of what is no word: <sil>, [NOISE]
MARKER = re.compile(r"\(\d+\)$")  # of another pronunciation: "the(2)"
# `fwdflat` off: a second pass over the utterance that would begin when the speaker has ended.
# The two limits drop hypotheses that hardly ever win.
TUNING = {"fwdflat": False, "bestpath": True, "maxwpf": 10, "maxhmmpf": 5_000}
KEYWORD_TAIL = bytes(SAMPLE_RATE * 2 * 3 // 10)  # 0.3 s: a keyword is only given some 0.1 s after its end
SMALLEST = 1e-6  # posterior, so that one word does not make the whole text impossible


def _decoder(**options: Any) -> Any:
    from pocketsphinx import Decoder

    return Decoder(samprate=SAMPLE_RATE, loglevel="FATAL", **TUNING, **options)


def bare_decoder() -> Any:
    """A decoder with the dictionary and without the language model: to look up words and to parse grammars."""
    return _decoder(lm=None)


def add_words(decoder: Any, words: tuple[tuple[str, str], ...]) -> None:
    """Add pronunciations; those that the dictionary has of the same words stay."""
    for index, (word, phones) in enumerate(words):
        name, variant = word, 1
        while decoder.lookup_word(name) is not None:
            variant += 1
            name = f"{word}({variant})"
        decoder.add_word(name, phones, index == len(words) - 1)  # the last one updates the search, for all


class Recogniser:
    """One decoder, for one utterance after the other. Nothing of one reaches the next but what `begin` is given."""

    def __init__(self) -> None:
        self._decoder = _decoder()
        self._model_mean: str = self._decoder.get_cmn(False)
        self._search = Search()
        self._listening = False

    @property
    def cepstral_mean(self) -> str:
        """What the microphone and the line sound like, as the utterance that was just finished leaves it."""
        mean: str = self._decoder.get_cmn(False)
        return mean

    def begin(self, search: Search, cepstral_mean: str) -> None:
        """Start an utterance; drops one that was not finished."""
        if self._listening:
            self._listening = False
            self._decoder.end_utt()
        if search != self._search:
            self._configure(search)
        self._decoder.set_cmn(cepstral_mean or self._model_mean)
        self._decoder.start_utt()
        self._listening = True

    def listen(self, pcm: bytes) -> str:
        """Decode; returns the transcript so far."""
        self._decoder.process_raw(pcm)
        hypothesis = self._decoder.hyp()
        words = hypothesis.hypstr.split() if hypothesis is not None and hypothesis.hypstr else []
        return " ".join(MARKER.sub("", word) for word in words if word[0] not in FILLER)

    def finish(self, pcm: bytes) -> tuple[str, float]:
        """Decode the rest; returns the final transcript and the geometric mean of its words' posteriors."""
        if self._search.keywords:
            pcm += KEYWORD_TAIL
        if pcm:
            self._decoder.process_raw(pcm)
        self._listening = False
        self._decoder.end_utt()
        words = self._words()
        if not words:
            return "", 1.0
        logs = [math.log(min(max(posterior, SMALLEST), 1.0)) for _, posterior in words]
        return " ".join(word for word, _ in words), math.exp(sum(logs) / len(logs))

    def _words(self) -> list[tuple[str, float]]:
        """Words (or keywords) of the utterance and their posteriors, in order."""
        if self._decoder.hyp() is None:  # finds the best path; without one there are no segments either
            return []
        spoken = [(part.word.strip(), part.prob) for part in self._decoder.seg() or ()]
        return [(MARKER.sub("", word), posterior) for word, posterior in spoken if word and word[0] not in FILLER]

    def _configure(self, search: Search) -> None:
        """Listen for something else. Without the words of others: they would be in everybody's dictionary."""
        if search.words != self._search.words:
            del self._decoder  # before the new one: not twice the memory
            self._decoder = _decoder()
            add_words(self._decoder, search.words)
        elif self._search.grammar or self._search.keywords:
            self._decoder.activate_search()
            self._decoder.remove_search("own")
        self._search = search
        if search.grammar:
            self._decoder.add_jsgf_string("own", search.grammar)
        elif search.keywords:
            self._add_keywords(search.keywords)
        self._decoder.activate_search("own" if search.grammar or search.keywords else None)

    def _add_keywords(self, keywords: tuple[tuple[str, float], ...]) -> None:
        with tempfile.NamedTemporaryFile("w", prefix="antiphon-", suffix=".kws") as file:
            file.writelines(f"{phrase} /{threshold:g}/\n" for phrase, threshold in keywords)
            file.flush()
            self._decoder.add_kws("own", file.name)
