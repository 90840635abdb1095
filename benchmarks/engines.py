#!/usr/bin/env python3
"""What the embedded stt and tts engines do on this machine: errors, speed and first output. One stream at a time.

    python benchmarks/engines.py [--rounds 5] [--voices en-us+f5,en-us+f2,…] [--json]

stt: pocketsphinx on examples/audio/*.wav, in frames of 20 ms as fast as it takes them. Word error rate over all words;
real-time factor (wall time over audio time); time from the flush to the final transcript.
tts: eSpeak on the texts beside them. Time to the first audio; real-time factor. With --voices, each voice is heard by
pocketsphinx on those texts and on agent_sentences.txt, 30 in all: which one does it understand?
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import soxr
import uvloop

from services.stt import pocketsphinx
from services.tts import espeak
from tests.wer import word_errors

AUDIO = Path(__file__).parent.parent / "examples" / "audio"
SENTENCES = Path(__file__).with_name("agent_sentences.txt")
RATE = 16_000
FRAME = RATE // 50 * 2


async def recognise(engine: pocketsphinx.Engine, pcm: bytes) -> tuple[str, float, float]:
    """The transcript, seconds in all, and seconds from the flush to the final."""
    stream = await engine.open(pocketsphinx.STT(), RATE)
    begin = time.perf_counter()
    for start in range(0, len(pcm), FRAME):
        await stream.push(pcm[start : start + FRAME])
    flushed = time.perf_counter()
    text, _ = await stream.flush()
    end = time.perf_counter()
    await stream.close()
    return text, end - begin, end - flushed


async def measure_stt(engine: pocketsphinx.Engine, rounds: int) -> dict[str, Any]:
    """Over all examples."""
    errors = words = 0
    factors, finals = [], []
    for _ in range(rounds):
        for wav in sorted(AUDIO.glob("*.wav")):
            samples, _rate = soundfile.read(wav, dtype="int16")
            heard, seconds, final = await recognise(engine, samples.tobytes())
            wrong, said = word_errors(wav.with_suffix(".txt").read_text(), heard)
            errors, words = errors + wrong, words + said
            factors.append(seconds / (len(samples) / RATE))
            finals.append(final * 1000)
    return {
        "word_error_rate_percent": round(errors / words * 100, 1),
        "words": words // rounds,
        "real_time_factor": round(statistics.median(factors), 3),
        "final_ms_median": round(statistics.median(finals), 1),
        "final_ms_max": round(max(finals), 1),
    }


async def speak(engine: espeak.Engine, options: espeak.TTS, text: str) -> tuple[bytes, float, float]:
    """The audio, seconds to its first sample, and seconds in all."""
    begin, first, pcm = time.perf_counter(), 0.0, bytearray()
    async for sound in engine.synthesize(options, text):
        if sound.pcm and not first:
            first = time.perf_counter() - begin
        pcm += sound.pcm
    return bytes(pcm), first, time.perf_counter() - begin


def texts() -> list[str]:
    """What the examples say."""
    return [path.read_text().strip() for path in sorted(AUDIO.glob("*.txt"))]


async def measure_tts(engine: espeak.Engine, rounds: int) -> dict[str, Any]:
    """Over the texts of all examples."""
    firsts, factors = [], []
    for _ in range(rounds):
        for text in texts():
            pcm, first, seconds = await speak(engine, espeak.TTS(), text)
            firsts.append(first * 1000)
            factors.append(seconds / (len(pcm) / 2 / espeak.SAMPLE_RATE))
    return {
        "first_audio_ms_median": round(statistics.median(firsts), 2),
        "first_audio_ms_max": round(max(firsts), 2),
        "real_time_factor": round(statistics.median(factors), 4),
    }


async def measure_voice(stt: pocketsphinx.Engine, tts: espeak.Engine, voice: str, volume: int) -> float:
    """Word error rate, in percent, of what pocketsphinx makes of this voice."""
    errors = words = 0
    silence = np.zeros(RATE * 3 // 10, np.int16)
    for text in [*texts(), *SENTENCES.read_text().splitlines()]:
        pcm, _, _ = await speak(tts, espeak.TTS(voice=voice, volume=volume), text)
        samples = soxr.resample(np.frombuffer(pcm, "<i2"), espeak.SAMPLE_RATE, RATE)
        heard, _, _ = await recognise(stt, np.concatenate([silence, samples, silence]).astype("<i2").tobytes())
        wrong, said = word_errors(text, heard)
        errors, words = errors + wrong, words + said
    return round(errors / words * 100, 1)


async def measure(rounds: int, voices: list[str]) -> dict[str, Any]:
    """All of it."""
    stt, tts = pocketsphinx.Engine(), espeak.Engine()
    await stt.load(1)
    await tts.load(1)
    try:
        found: dict[str, Any] = {
            "stt/pocketsphinx": await measure_stt(stt, rounds),
            "tts/espeak": await measure_tts(tts, rounds),
        }
        if voices:
            found["voices, word error rate percent"] = {
                f"{voice}, volume {volume}": await measure_voice(stt, tts, voice, volume)
                for voice in voices
                for volume in (80, 100)
            }
        return found
    finally:
        await stt.close()
        await tts.close()


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--voices", default="")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    voices = [voice for voice in arguments.voices.split(",") if voice]
    found = uvloop.run(measure(arguments.rounds, voices))
    if arguments.json:
        print(json.dumps(found, indent=2))
        return
    for name, figures in found.items():
        print(name)
        for key, value in figures.items():
            print(f"  {key.replace('_', ' ')}: {value}")


if __name__ == "__main__":
    main()
