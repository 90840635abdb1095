"""What every engine promises, whatever it runs on: one suite over all the modules that a node can load.

An engine whose load says that something must be installed or configured first is skipped there, unless it is one of
the embedded ones, which must work as installed.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import math
import os
import subprocess
import sys
import threading
from array import array
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import aclosing, asynccontextmanager
from pathlib import Path
from typing import Any, TypeVar, cast

import msgspec
import numpy as np
import pytest
import uvloop

from protocol.engine import SERVICES, EngineOptions, Service
from protocol.errors import EngineUnavailable, OptionError
from protocol.limits import MAX_SAMPLE_RATE, MIN_SAMPLE_RATE, NODE_TIMEOUT_MS
from protocol.node import TO_NODE, ChatItem, Chunk, OpenStream
from services.engine import LlmEngine, SttEngine, TtsEngine, VadEngine, VadWindow
from services.runtime.loading import BASES, DEFAULT_ENGINES, engine_name, engines_of, load_engine

ROOT = Path(__file__).resolve().parents[2]
ENGINES = [(service, name) for service in SERVICES for name in engines_of(service)]
# What engines load in `load()` alone. Importing one of these for an option object would cost every orchestrator.
SDKS = ("pocketsphinx", "espeakng_loader", "onnxruntime", "torch", "soundfile", "sounddevice", "soxr")
SENTENCE = "Hello, can you hear me?"

T = TypeVar("T")
every_engine = pytest.mark.parametrize(("service", "name"), ENGINES, ids=["/".join(engine) for engine in ENGINES])


def of(wanted: Service) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("name", engines_of(wanted))


def options_type(service: Service, name: str) -> type[EngineOptions]:
    module = importlib.import_module(f"services.{service}.{name}")
    return cast("type[EngineOptions]", getattr(module, service.upper()))


@asynccontextmanager
async def loaded(service: Service, name: str) -> AsyncIterator[Any]:
    """The engine, loaded for two streams and closed at the end."""
    engine = load_engine(service, name)
    try:
        await engine.load(2)
    except EngineUnavailable as error:
        if DEFAULT_ENGINES[service] == name:
            raise
        pytest.skip(str(error))
    try:
        yield engine
    finally:
        await engine.close()


def run(work: Coroutine[Any, Any, T]) -> T:
    """Run as a node process does; fail if the loop stood still for so long that the node would be taken for dead."""

    async def watched() -> tuple[T, float]:
        late = 0.0
        task = asyncio.ensure_future(work)
        loop = asyncio.get_running_loop()
        while not task.done():
            before = loop.time()
            await asyncio.wait({task}, timeout=0.02)
            late = max(late, loop.time() - before - 0.02)
        return task.result(), late

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        result, late_s = runner.run(watched())
    assert late_s * 1000 < NODE_TIMEOUT_MS
    return result


def children() -> set[int]:
    """Processes that this one has started and that are not yet gone, zombies included."""
    found = set()
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):  # it ended while we looked
            parent = int(stat.read_text().rpartition(")")[2].split()[1])
            if parent == os.getpid():
                found.add(int(stat.parent.name))
    return found


def bounded(kind: type[EngineOptions]) -> Iterator[tuple[str, list[float], list[float]]]:
    """Each option that has bounds: its name, values at its bounds, and values beyond them."""
    for field in cast(msgspec.inspect.StructType, msgspec.inspect.type_info(kind)).fields:
        if isinstance(field.type, msgspec.inspect.IntType | msgspec.inspect.FloatType):
            low, high = field.type.ge, field.type.le
            inside = [bound for bound in (low, high) if bound is not None]
            beyond = [bound + step for bound, step in ((low, -1), (high, 1)) if bound is not None]
            yield field.name, inside, beyond


def over_the_wire(options: EngineOptions) -> EngineOptions:
    message = TO_NODE.decode(TO_NODE.encode(OpenStream(1, 0, 0, "session", options.spec())))
    assert isinstance(message, OpenStream)
    return type(options).from_wire(message.spec.options)


@pytest.mark.parametrize("service", SERVICES)
def test_the_embedded_engine_of_each_service_is_found(service: Service) -> None:
    assert DEFAULT_ENGINES[service] in engines_of(service)


@every_engine
def test_importing_the_options_loads_no_model_no_sdk_and_starts_nothing(service: Service, name: str) -> None:
    code = (
        f"import sys, threading; from services.{service}.{name} import {service.upper()} as Options; Options();"
        f"print(*({set(SDKS)!r} & set(sys.modules)), threading.active_count())"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=30)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["1"]


@every_engine
def test_an_engine_says_what_it_is_before_it_is_loaded(service: Service, name: str) -> None:
    engine, kind = load_engine(service, name), options_type(service, name)
    assert isinstance(engine, BASES[service])
    assert engine.options_type is kind
    assert (kind.service, kind.engine, engine_name(engine)) == (service, name, name)
    assert (kind().spec().service, kind().spec().engine, kind().spec().options) == (service, name, {})
    assert engine.default_slots >= 1
    assert all(MIN_SAMPLE_RATE <= rate <= MAX_SAMPLE_RATE for rate in engine.sample_rates)
    assert bool(engine.sample_rates) is (service != "llm")


@every_engine
def test_options_travel_unchanged(service: Service, name: str) -> None:
    kind = options_type(service, name)
    assert over_the_wire(kind()) == kind()
    for option, inside, _ in bounded(kind):
        for value in inside:
            with contextlib.suppress(OptionError):  # a bound may not go together with another option's default
                options = kind(**{option: value})
                assert over_the_wire(options) == options


@every_engine
def test_an_unknown_option_is_refused_by_name_and_value(service: Service, name: str) -> None:
    with pytest.raises(OptionError, match=r"'colour' is 'blue'; there is no such option"):
        options_type(service, name).from_wire({"colour": "blue"})


@every_engine
def test_an_option_out_of_range_is_refused_by_name_and_value(service: Service, name: str) -> None:
    kind = options_type(service, name)
    for option, _, beyond in bounded(kind):
        for value in beyond:
            with pytest.raises(OptionError, match=f"option '{option}' is {value}"):
                kind(**{option: value})


@every_engine
def test_an_option_of_a_wrong_type_is_refused_by_name(service: Service, name: str) -> None:
    kind = options_type(service, name)
    for option in kind.__struct_fields__:
        with pytest.raises(OptionError, match=f"option '{option}' is"):
            kind.from_wire({option: {"no": {"such": "value"}}})


@every_engine
def test_an_engine_that_was_never_loaded_can_be_closed(service: Service, name: str) -> None:
    run(load_engine(service, name).close())


@every_engine
def test_closing_leaves_no_thread_and_no_process(service: Service, name: str) -> None:
    threads, processes = set(threading.enumerate()), children()

    async def twice() -> None:
        for _ in range(2):
            async with loaded(service, name) as engine:
                await engine.check(options_type(service, name)())
                await USES[service](engine)

    run(twice())
    assert set(threading.enumerate()) <= threads
    assert children() <= processes


async def use_vad(engine: VadEngine[Any]) -> list[float]:
    """Probabilities of a second of silence, over two streams at once."""
    streams = [engine.open(engine.options_type()) for _ in range(2)]
    heard: list[float] = []
    for _ in range(math.ceil(engine.sample_rates[0] / streams[0].window)):
        windows = [VadWindow(stream, np.zeros(stream.window, np.float32)) for stream in streams]
        heard += engine.process(windows)
    return heard


async def use_stt(engine: SttEngine[Any]) -> list[tuple[str, float]]:
    """Finals of a segment without audio, of half a second of silence, and again of nothing."""
    rate = engine.sample_rates[0]
    stream = await engine.open(engine.options_type(), rate)
    try:
        finals = [await stream.flush()]
        for _ in range(25):
            await stream.push(bytes(rate * 2 // 50))
        return [*finals, await stream.flush(), await stream.flush()]
    finally:
        await stream.close()


async def use_llm(engine: LlmEngine[Any]) -> list[Chunk]:
    """The chunks of a reply to a greeting."""
    chat = [ChatItem("system", "You are a receptionist."), ChatItem("user", "Good morning.")]
    async with aclosing(cast(Any, engine.generate(engine.options_type(), chat, ()))) as chunks:
        return [chunk async for chunk in chunks]


async def use_tts(engine: TtsEngine[Any], text: str = SENTENCE) -> tuple[bytes, list[tuple[int, int]]]:
    """All audio of a piece, and its words."""
    pcm, words = bytearray(), []
    async with aclosing(cast(Any, engine.synthesize(engine.options_type(), text))) as sounds:
        async for sound in sounds:
            pcm += sound.pcm
            words += [(word.at_ms, word.offset) for word in sound.words]
    return bytes(pcm), words


USES: dict[Service, Callable[[Any], Coroutine[Any, Any, Any]]] = {
    "vad": use_vad, "stt": use_stt, "llm": use_llm, "tts": use_tts,
}  # fmt: skip


async def load_and_use(service: Service, name: str) -> Any:
    async with loaded(service, name) as engine:
        return await USES[service](engine)


@of("vad")
def test_silence_is_unlikely_to_be_speech(name: str) -> None:
    probabilities = run(load_and_use("vad", name))
    assert len(probabilities) >= 2
    assert all(0 <= probability < 0.5 for probability in probabilities)


@of("stt")
def test_nothing_said_is_an_empty_transcript(name: str) -> None:
    empty, silent, again = run(load_and_use("stt", name))
    assert (empty[0], silent[0], again[0]) == ("", "", "")
    assert all(0 <= confidence <= 1 for _, confidence in (empty, silent, again))


@of("llm")
def test_a_greeting_is_answered(name: str) -> None:
    chunks = run(load_and_use("llm", name))
    assert chunks
    assert all(bool(chunk.text) is not bool(chunk.call) for chunk in chunks)


@of("tts")
def test_a_sentence_becomes_audio_at_the_declared_rate_with_its_words_in_order(name: str) -> None:
    async def speak() -> tuple[bytes, list[tuple[int, int]], int]:
        async with loaded("tts", name) as engine:
            rate = engine.sample_rate(engine.options_type())
            assert rate in engine.sample_rates
            return *(await use_tts(engine)), rate

    pcm, words, rate = run(speak())
    assert len(pcm) % 2 == 0
    duration_ms = len(pcm) / 2 / rate * 1000
    assert 700 < duration_ms < 5_000  # five short words
    assert max(map(abs, array("h", pcm))) > 1_000
    assert words == sorted(set(words))
    assert all(0 <= at_ms < duration_ms and 0 <= offset < len(SENTENCE) for at_ms, offset in words)


@of("tts")
def test_a_piece_may_be_closed_before_its_end_and_the_next_one_is_whole(name: str) -> None:
    async def speak() -> tuple[int, int]:
        async with loaded("tts", name) as engine:
            alone, _ = await use_tts(engine)
            sounds = engine.synthesize(engine.options_type(), f"{SENTENCE} " * 20)
            await anext(sounds)
            await sounds.aclose()
            return len(alone), len((await use_tts(engine))[0])

    alone, after = run(speak())
    assert abs(after - alone) < 0.1 * alone
