"""The eSpeak engine: streaming, word times, cancellation, and text that must be spoken and not obeyed."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
from array import array
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import uvloop

from protocol.errors import EngineError, EngineUnavailable, OptionError
from protocol.limits import MAX_PIECE_LENGTH
from protocol.node import Word
from services.tts import espeak_library
from services.tts.espeak import SAMPLE_RATE, TTS, Engine
from services.tts.espeak_library import Library, open_library

ROOT = Path(__file__).resolve().parents[2]
LONG = "The office is open. " * (MAX_PIECE_LENGTH // 20)


def run(work: Coroutine[Any, Any, Any]) -> Any:
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(asyncio.wait_for(work, 30))


@asynccontextmanager
async def loaded() -> AsyncIterator[Engine]:
    engine = Engine()
    await engine.load(4)
    try:
        yield engine
    finally:
        await engine.close()


async def hear(engine: Engine, text: str, **options: Any) -> tuple[bytes, list[Word]]:
    pcm = bytearray()
    words: list[Word] = []
    async for sound in engine.synthesize(TTS(**options), text):
        pcm += sound.pcm
        words += sound.words
    return bytes(pcm), words


def spoken(text: str, **options: Any) -> tuple[bytes, list[Word]]:
    """The audio and words of one piece, from a fresh engine."""

    async def once() -> tuple[bytes, list[Word]]:
        async with loaded() as engine:
            return await hear(engine, text, **options)

    found: tuple[bytes, list[Word]] = run(once())
    return found


def word_starts(text: str) -> list[str]:
    """What each word time points at, up to the next space."""
    return [text[word.offset :].split()[0] for word in spoken(text)[1]]


def length_ms(pcm: bytes) -> float:
    return len(pcm) / 2 / SAMPLE_RATE * 1000


def loudness(pcm: bytes) -> float:
    samples = array("h", pcm)
    return sum(map(abs, samples)) / len(samples)


@pytest.mark.parametrize(
    "text",
    [
        "Sure, I can help you with that.",
        "Une crème brûlée, naïvely; the “façade” — done. Ready?",
        "Zwölf Äpfel 😀 für 25 € heute",
        "  At 10:30, see 1,234.5 items on example.com/foo_bar!",
        "two\r\nlines\n\nand 北京 𝒳 more",
    ],
)
def test_a_word_time_points_at_the_beginning_of_a_word_whatever_the_characters(text: str) -> None:
    pcm, words = spoken(text)
    offsets = [word.offset for word in words]
    assert offsets == sorted(set(offsets))
    assert all(text[offset] != " " and (offset == 0 or text[offset - 1].isspace()) for offset in offsets)
    assert all(word.at_ms <= following.at_ms for word, following in pairwise(words))
    assert all(0 <= word.at_ms < length_ms(pcm) for word in words)


def test_every_word_of_plain_sentences_has_its_time() -> None:
    text = "Où est-ce? Le café ferme à neuf heures, déjà. Then we go home."
    assert word_starts(text) == text.split()


def test_a_word_time_is_where_the_word_is_heard() -> None:
    pcm, words = spoken("Hello. Goodbye")
    at = words[1].at_ms * SAMPLE_RATE // 1000 * 2
    pause = pcm[at - SAMPLE_RATE // 10 * 2 : at]
    assert loudness(pause) < 0.1 * loudness(pcm[at : at + SAMPLE_RATE // 10 * 2])


def test_words_come_with_or_before_the_audio_they_are_in() -> None:
    async def check() -> None:
        async with loaded() as engine:
            ahead_ms = 0.0
            async for sound in engine.synthesize(TTS(), LONG):
                assert all(word.at_ms >= ahead_ms - 1 for word in sound.words)
                ahead_ms += length_ms(sound.pcm)

    run(check())


@pytest.mark.parametrize("text", ["", " ", "...", "?!", " — ", "\n\t", "\x01\x02", "“”"])
def test_a_text_with_nothing_to_say_gives_no_audio_and_no_error(text: str) -> None:
    assert spoken(text) == (b"", [])


@pytest.mark.parametrize(
    ("text", "plain"),
    [
        ("one \x01250P two", "one  250P two"),  # pitch 250, if it were obeyed
        ("one \ue001250P two", "one  250P two"),  # a private character that the library folds onto the same command
        ("one\x00 two", "one  two"),
        ("one\ud800 two", "one  two"),
    ],
)
def test_commands_in_the_text_are_not_obeyed(text: str, plain: str) -> None:
    assert length_ms(spoken(text)[0]) == pytest.approx(length_ms(spoken(plain)[0]), abs=1)


@pytest.mark.parametrize("text", ["<b>bold</b>", "a < b", "[[h@loU]]", "<speak><break time='9s'/>hi</speak>", "&lt;"])
def test_markup_and_phonemes_are_text(text: str) -> None:
    pcm, words = spoken(text)
    assert words
    assert 0 < length_ms(pcm) < 8_000


def test_the_first_audio_leaves_while_the_rest_is_made(monkeypatch: pytest.MonkeyPatch) -> None:
    going_on, done = threading.Event(), threading.Event()
    real = Library.speak

    def speak(self: Library, text: str, manner: Any, take: Callable[..., bool]) -> None:
        chunks = 0

        def take_slowly(pcm: bytes, events: Any) -> bool:
            nonlocal chunks
            chunks += 1
            if chunks == 5:
                assert going_on.wait(10)  # the library is in the middle of the piece until somebody has heard of it
            return take(pcm, events)

        real(self, text, manner, take_slowly)
        done.set()

    async def first() -> None:
        async with loaded() as engine:
            monkeypatch.setattr(Library, "speak", speak)
            sounds = engine.synthesize(TTS(), LONG)
            sound = await anext(sounds)
            assert sound.pcm
            assert not done.is_set()
            going_on.set()
            async for _ in sounds:
                pass
            assert done.is_set()

    run(first())


def test_a_piece_that_nobody_takes_does_not_hold_the_engine() -> None:
    async def both() -> None:
        async with loaded() as engine:
            waiting = engine.synthesize(TTS(), LONG)
            await anext(waiting)  # and no more: its consumer has no credit
            pcm, _ = await hear(engine, "Hello.")
            assert pcm
            rest = [sound async for sound in waiting]
            assert length_ms(b"".join(sound.pcm for sound in rest)) > 30_000

    run(both())


def test_pieces_of_many_streams_do_not_mix() -> None:
    texts = [f"This is stream number {number}." for number in range(8)]
    voices = ["en-us+f5", "en-us", "de", "fr"]

    async def together() -> tuple[list[float], list[float]]:
        async with loaded() as engine:
            pieces = [(text, voices[number % 4], 120 + 20 * number) for number, text in enumerate(texts)]
            alone = [length_ms((await hear(engine, text, voice=voice, rate=rate))[0]) for text, voice, rate in pieces]
            tasks = [hear(engine, text, voice=voice, rate=rate) for text, voice, rate in pieces]
            return alone, [length_ms(pcm) for pcm, _ in await asyncio.gather(*tasks)]

    alone, mixed = run(together())
    assert mixed == pytest.approx(alone, rel=0.02)  # most voices flutter: no two times are quite the same


def test_closing_a_piece_stops_the_library_at_its_next_chunk(monkeypatch: pytest.MonkeyPatch) -> None:
    made, go_on, ended = 0, threading.Event(), threading.Event()
    real = Library.speak

    def speak(self: Library, text: str, manner: Any, take: Callable[..., bool]) -> None:
        def counted(pcm: bytes, events: Any) -> bool:
            nonlocal made
            made += 1
            if made == 3:
                assert go_on.wait(10)
            return take(pcm, events)

        real(self, text, manner, counted)
        ended.set()

    async def cancel() -> None:
        async with loaded() as engine:
            monkeypatch.setattr(Library, "speak", speak)
            sounds: Any = engine.synthesize(TTS(), LONG)
            await anext(sounds)
            await sounds.aclose()
            go_on.set()
            assert await asyncio.to_thread(ended.wait, 10)

    run(cancel())
    assert made <= 3


def test_a_piece_that_is_cancelled_before_its_turn_is_never_spoken(monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[str] = []
    go_on = threading.Event()
    real = Library.speak

    def speak(self: Library, text: str, manner: Any, take: Callable[..., bool]) -> None:
        started.append(text)
        assert go_on.wait(10)
        real(self, text, manner, take)

    async def cancel() -> None:
        async with loaded() as engine:
            monkeypatch.setattr(Library, "speak", speak)
            first = asyncio.create_task(hear(engine, "first"))
            second = asyncio.create_task(hear(engine, "second"))
            await asyncio.sleep(0)  # both have asked
            second.cancel()
            with pytest.raises(asyncio.CancelledError):
                await second
            go_on.set()
            assert (await first)[0]
            assert (await hear(engine, "third"))[0]

    run(cancel())
    assert started == ["first", "third"]


def test_what_fails_in_the_librarys_thread_reaches_the_stream(monkeypatch: pytest.MonkeyPatch) -> None:
    async def fail() -> None:
        async with loaded() as engine:
            monkeypatch.setattr("services.tts.espeak._Piece.take", lambda *_: 1 / 0)
            with pytest.raises(ZeroDivisionError):
                await hear(engine, "Hello.")
            monkeypatch.undo()
            assert (await hear(engine, "Hello."))[0]

    run(fail())


def test_rate_pitch_volume_gap_and_voice_change_the_speech_of_their_piece_alone() -> None:
    text = "The office is open from nine to five."

    async def compare() -> None:
        async with loaded() as engine:
            usual, _ = await hear(engine, text)
            slow, _ = await hear(engine, text, rate=80)
            fast, _ = await hear(engine, text, rate=450)
            gaps, _ = await hear(engine, text, word_gap_ms=200)
            soft, _ = await hear(engine, text, volume=20)
            low, _ = await hear(engine, text, voice="en-us", pitch=0)
            high, _ = await hear(engine, text, voice="en-us", pitch=100)
            other, _ = await hear(engine, text, voice="de")
            again, _ = await hear(engine, text)
            assert length_ms(slow) > 1.5 * length_ms(usual) > 3 * length_ms(fast)
            assert length_ms(gaps) > length_ms(usual) + 7 * 200 * 0.5
            assert loudness(soft) < 0.4 * loudness(usual)
            assert bass(low) > 3 * bass(high)
            assert other != usual
            assert length_ms(again) == pytest.approx(length_ms(usual), abs=2)
            assert loudness(again) == pytest.approx(loudness(usual), rel=0.05)

    run(compare())


def bass(pcm: bytes) -> float:
    """The share of the energy that is below 120 Hz: where only the fundamental of a low voice is."""
    samples = np.frombuffer(pcm, "<i2").astype(np.float64)
    energy = np.abs(np.fft.rfft(samples)) ** 2
    return float(energy[np.fft.rfftfreq(len(samples), 1 / SAMPLE_RATE) < 120].sum() / energy.sum())


@pytest.mark.parametrize("voice", ["en-us", "en-gb", "en-us+klatt4", "de+m3", "zh"])
def test_a_voice_that_exists_is_accepted_and_speaks(voice: str) -> None:
    async def check() -> bytes:
        async with loaded() as engine:
            await engine.check(TTS(voice=voice))
            return (await hear(engine, "Hello", voice=voice))[0]

    assert run(check())


@pytest.mark.parametrize(
    ("voice", "allowed"),
    [
        ("klingonese", r"allowed are af, .*en-us, .*with or without \+variant"),
        ("en-us+nobody", r"allowed after en-us\+ are .*f5.*klatt4"),
        ("en-us+", r"allowed after en-us\+ are"),
        ("gmw/en-US", "allowed are"),
        ("../../../../../../etc/passwd", "allowed are"),
        ("en-us+../../gmw/en", r"allowed after en-us\+ are"),
    ],
)
def test_a_voice_that_does_not_exist_is_refused_with_those_that_do(voice: str, allowed: str) -> None:
    async def check() -> None:
        async with loaded() as engine:
            with pytest.raises(OptionError, match=allowed) as refused:
                await engine.check(TTS(voice=voice))
            assert repr(voice) in str(refused.value)
            with pytest.raises(OptionError):
                await hear(engine, "Hello", voice=voice)

    run(check())


def test_a_node_without_the_library_is_told_what_to_install(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(espeak_library._Shared, "library", None)
    monkeypatch.setitem(sys.modules, "espeakng_loader", None)
    threads = threading.active_count()
    with pytest.raises(EngineUnavailable, match="pip install espeakng-loader"):
        run(Engine().load(1))
    assert threading.active_count() == threads
    monkeypatch.undo()
    monkeypatch.setattr(espeak_library._Shared, "library", None)
    monkeypatch.setattr("espeakng_loader.get_library_path", lambda: str(tmp_path / "libespeak-ng.so"))
    with pytest.raises(EngineUnavailable, match=r"libespeak-ng\.so.*pip install --force-reinstall espeakng-loader"):
        run(Engine().load(1))


def test_data_that_is_missing_is_named_and_does_not_end_the_process(tmp_path: Path) -> None:
    code = (
        "import sys, espeakng_loader; from protocol.errors import EngineUnavailable\n"
        "from services.tts.espeak_library import open_library\n"
        f"espeakng_loader.get_data_path = lambda: {str(tmp_path)!r}\n"
        "try: open_library()\n"
        "except EngineUnavailable as error: print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=30)
    assert done.returncode == 0, done.stderr
    assert str(tmp_path) in done.stdout


def test_the_library_is_one_for_all_engines_of_a_process() -> None:
    async def two() -> None:
        async with loaded() as one, loaded() as other:
            assert one._library is other._library is open_library()
            spoken_at_once = await asyncio.gather(*(hear(engine, LONG[:200]) for engine in (one, other)))
            one_ms, other_ms = (length_ms(pcm) for pcm, _ in spoken_at_once)
            assert one_ms == pytest.approx(other_ms, abs=2)

    run(two())


def test_an_engine_that_is_not_loaded_says_so() -> None:
    with pytest.raises(EngineError, match="before it was loaded"):
        run(hear(Engine(), "Hello"))
