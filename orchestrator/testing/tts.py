"""The simulated TTS: audio whose length is known from the text alone."""

from __future__ import annotations

import re
from collections import deque

import numpy as np

from orchestrator.testing.work import Desk, Work
from protocol.audio import SAMPLE_BYTES, AudioFormat
from protocol.limits import FRAME_MS, TTS_AHEAD_MS
from protocol.node import Allow, AudioOut, FromNode, OpenStream, Speak, ToNode, Word, Words

SPEECH_RATE = 1000 / 60  # characters a second: 60 ms for each, about as people speak
TONE_HZ = 200  # whole periods in a frame, so that frames join without a click
TONE_PEAK = 100  # of 32768: to be seen in a recording, and far below what the simulated vad takes for speech

_WORD = re.compile(r"\S+")


class SimulatedTts:
    """What all its streams share.

    - `sample_rate`: of its audio, in Hz.
    - `speech_rate`: characters a second. All count, spaces too: a reply of 100 characters lasts 6 s however it is cut.
      A piece of nothing but spaces has no sound.
    - `first_audio_s`: from a piece of text to its audio, which then comes as fast as credit lets it.
    - `word_times`: send `words`, as engines do that know where words begin.
    - `spoken`: the pieces of text that were asked for, oldest first.
    """

    def __init__(self, sample_rate: int) -> None:
        self.sample_rate = sample_rate
        self.speech_rate = SPEECH_RATE
        self.first_audio_s = 0.0
        self.word_times = True
        self.spoken: list[str] = []

    def work(self, opening: OpenStream, desk: Desk) -> Work:
        """A new stream."""
        return _Speech(opening, desk, self)


class _Speech(Work):
    """One reply's speech: what is ready to be sent, and how much of it may be."""

    takes = (Speak, Allow)

    def __init__(self, opening: OpenStream, desk: Desk, tts: SimulatedTts) -> None:
        super().__init__(opening, desk)
        self._tts = tts
        self._audio = AudioFormat(tts.sample_rate)
        self._tone = _tone(self._audio)
        self._pieces: deque[Speak] = deque()
        self._ready: deque[FromNode] = deque()
        self._sent = 0  # bytes
        self._allowed = self._audio.frame_bytes(TTS_AHEAD_MS)
        self._complete = False  # all pieces have been made

    def take(self, message: ToNode) -> None:
        if isinstance(message, Allow):
            self._allowed = max(self._allowed, self._audio.frame_bytes(message.until_ms))
            self._pump()
            return
        assert isinstance(message, Speak)
        self._pieces.append(message)
        if len(self._pieces) == 1:
            self.later(self._delay_s(message), self._make)

    def _delay_s(self, piece: Speak) -> float:
        return self._tts.first_audio_s if piece.text.strip() else 0.0

    def _make(self) -> None:
        """The oldest piece's audio is ready; the next one is begun."""
        piece = self._pieces.popleft()
        size = 0
        if piece.text.strip():
            self._tts.spoken.append(piece.text)
            size = round(len(piece.text) * self._tts.sample_rate / self._tts.speech_rate) * SAMPLE_BYTES
            if self._tts.word_times:
                self._ready.append(Words(0, 0, 0, piece.piece, self._words(piece.text)))
        for start in range(0, size, len(self._tone)):
            self._ready.append(AudioOut(0, 0, 0, piece.piece, self._tone[: size - start]))
        self._ready.append(AudioOut(0, 0, 0, piece.piece, b"", True))
        self._complete = piece.last
        if self._pieces:
            self.later(self._delay_s(self._pieces[0]), self._make)
        self._pump()

    def _words(self, text: str) -> list[Word]:
        at = [match.start() for match in _WORD.finditer(text)]
        return [Word(round(offset * 1000 / self._tts.speech_rate), offset) for offset in at]

    def _pump(self) -> None:
        """Send what may be sent. Only sound needs credit."""
        while self._ready:
            message = self._ready[0]
            if isinstance(message, AudioOut) and message.pcm:
                if self._sent >= self._allowed:
                    return
                self._sent += len(message.pcm)
            self.send(self._ready.popleft())
        if self._complete:
            self.done()


def _tone(audio: AudioFormat) -> bytes:
    """A frame of it."""
    samples = np.arange(audio.frame_bytes(FRAME_MS) // SAMPLE_BYTES)
    wave = TONE_PEAK * np.sin(2 * np.pi * TONE_HZ * samples / audio.sample_rate)
    return wave.astype("<i2").tobytes()
