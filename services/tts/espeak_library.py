"""The binding of the eSpeak NG library: ctypes, and nothing that is not in `speak_lib.h` of version 1.52.

This room knows no event loop, no stream and no option object. The library is global state of the process, so there is
one `Library`, made by the first `open_library()` and never ended: it holds a few megabytes and no thread. Its methods
block, and take turns among themselves; ctypes releases the GIL while the library computes.
"""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Callable, Iterator
from ctypes import POINTER, c_char, c_char_p, c_int, c_short, c_size_t, c_ubyte, c_uint, c_void_p
from dataclasses import dataclass
from typing import NamedTuple

from protocol.errors import EngineError, EngineUnavailable

CHUNK_MS = 60  # how much audio the library hands over at once, which is also how soon it can be stopped

_SYNCHRONOUS = 2  # AUDIO_OUTPUT_SYNCHRONOUS: audio goes to the callback, in the thread that called
_DONT_EXIT = 0x8000  # espeakINITIALIZE_DONT_EXIT: without its data the library would end the process
_UTF8 = 1  # espeakCHARS_UTF8, and neither espeakSSML (0x10) nor espeakPHONEMES (0x100): text is plain
_BY_CHARACTER = 1  # POS_CHARACTER
_RATE, _VOLUME, _PITCH, _WORD_GAP = 1, 2, 3, 7  # espeak_PARAMETER
_LIST_TERMINATED, _WORD = 0, 1  # espeak_EVENT_TYPE
_GO_ON, _STOP = 0, 1


class WordEvent(NamedTuple):
    """The library began a word: when in the piece's audio, and at which character of its text, counted from 0."""

    at_ms: int
    offset: int


@dataclass(frozen=True)
class Manner:
    """How to speak. `voice`: an identifier of the library. Bounds are the library's own."""

    voice: str
    rate: int  # words a minute, 80 to 450
    pitch: int  # 0 to 100
    volume: int  # per cent; 100 is as loud as the voice was made
    word_gap_ms: int  # added between words, in steps of 10


Take = Callable[[bytes, list[WordEvent]], bool]
"""Called with each chunk (16-bit mono PCM) and the words whose events came with it; false stops the synthesis."""


class _Id(ctypes.Union):
    _fields_ = (("number", c_int), ("name", c_char_p), ("string", c_char * 8))


class _Event(ctypes.Structure):
    _fields_ = (
        ("type", c_int),
        ("unique_identifier", c_uint),
        ("text_position", c_int),  # of a character, from 1
        ("length", c_int),
        ("audio_position", c_int),  # ms
        ("sample", c_int),
        ("user_data", c_void_p),
        ("id", _Id),
    )


class _Voice(ctypes.Structure):
    _fields_ = (
        ("name", c_char_p),
        ("languages", c_void_p),  # pairs of a priority byte and a C string, ended by a zero byte
        ("identifier", c_char_p),
        ("gender", c_ubyte),
        ("age", c_ubyte),
        ("variant", c_ubyte),
        ("xx1", c_ubyte),
        ("score", c_int),
        ("spare", c_void_p),
    )


_Callback = ctypes.CFUNCTYPE(c_int, POINTER(c_short), c_int, POINTER(_Event))


class Library:
    """eSpeak NG, ready to speak. Get it from `open_library()`."""

    def __init__(self, handle: ctypes.CDLL, data_path: str) -> None:
        self._handle = handle
        self._turn = threading.Lock()
        self._take: Take | None = None
        self._failure: BaseException | None = None
        self._callback = _Callback(self._on_chunk)  # kept here: the library keeps no reference that Python knows of
        _declare(handle)
        self.sample_rate = int(handle.espeak_Initialize(_SYNCHRONOUS, CHUNK_MS, data_path.encode(), _DONT_EXIT))
        handle.espeak_SetSynthCallback(self._callback)
        self.languages = _languages(self._voices())  # code -> identifier of the voice that suits it best
        if self.sample_rate < 0 or not self.languages:  # it may report success without its data
            raise EngineUnavailable(
                f"eSpeak NG found no usable data in {data_path}: pip install --force-reinstall espeakng-loader"
            )
        self.variants = frozenset(identifier.removeprefix("!v/") for identifier, _ in self._voices(b"variant"))

    def try_voice(self, identifier: str) -> bool:
        """Whether the library can load this voice. Blocks for the piece that is spoken just then, and 0.1 ms."""
        with self._turn:
            return self._select(identifier)

    def speak(self, text: str, manner: Manner, take: Take) -> None:
        """Synthesise `text` and hand over its audio and word events as they are made.

        Blocks, first until the library is free, then for about a thousandth of the audio's length. Raises
        `EngineError` for what the library refuses, and whatever `take` raises.
        """
        with self._turn:
            self._apply(manner)
            self._take = take
            try:
                self._synthesize(text.encode())
            finally:
                self._take = None
                failure, self._failure = self._failure, None
            if failure is not None:
                raise failure

    def _apply(self, manner: Manner) -> None:
        if not self._select(manner.voice):
            raise EngineError(f"eSpeak NG cannot load its voice {manner.voice!r}", category="configuration")
        # A voice brings parameters of its own: these come after it.
        gap = manner.word_gap_ms // 10
        for number, value in ((_RATE, manner.rate), (_VOLUME, manner.volume), (_PITCH, manner.pitch), (_WORD_GAP, gap)):
            self._handle.espeak_SetParameter(number, value, 0)

    def _select(self, identifier: str) -> bool:
        return bool(self._handle.espeak_SetVoiceByName(identifier.encode()) == 0)

    def _synthesize(self, utf8: bytes) -> None:
        status = self._handle.espeak_Synth(utf8, len(utf8) + 1, 0, _BY_CHARACTER, 0, _UTF8, None, None)
        if status != 0:
            raise EngineError(f"eSpeak NG refused a piece of text: espeak_Synth returned {status}")

    def _on_chunk(self, wav: ctypes._Pointer[c_short], samples: int, events: ctypes._Pointer[_Event]) -> int:
        try:
            assert self._take is not None
            pcm = ctypes.string_at(wav, samples * 2) if wav else b""
            return _GO_ON if self._take(pcm, list(_words(events))) else _STOP
        except BaseException as error:  # noqa: BLE001  # cannot pass through C: `speak` raises it
            self._failure = error
            return _STOP

    def _voices(self, language: bytes | None = None) -> Iterator[tuple[str, list[tuple[int, str]]]]:
        """Identifier, and languages with their priorities (lower is better), of the voices there are."""
        asked = None
        if language is not None:
            buffer = ctypes.create_string_buffer(language)
            asked = ctypes.byref(_Voice(languages=ctypes.addressof(buffer)))
        found = self._handle.espeak_ListVoices(asked)
        for voice in iter(_pointers(found)):
            yield voice.identifier.decode(), _language_list(voice.languages)


class _Shared:
    library: Library | None = None
    opening = threading.Lock()


def open_library() -> Library:
    """The library of the wheel espeakng-loader, loaded on the first call (15 ms) and the same on every later one.

    Raises `EngineUnavailable` when the wheel is missing, or its library cannot be loaded here.
    """
    with _Shared.opening:
        if _Shared.library is None:
            _Shared.library = _load()
        return _Shared.library


def _load() -> Library:
    try:
        import espeakng_loader
    except ImportError as error:
        raise EngineUnavailable(
            "engine tts/espeak needs the Python package 'espeakng_loader', which holds the library eSpeak NG "
            f"({error}): pip install espeakng-loader"
        ) from error
    try:
        return Library(ctypes.CDLL(espeakng_loader.get_library_path()), espeakng_loader.get_data_path())
    except (OSError, RuntimeError, AttributeError) as error:
        raise EngineUnavailable(
            f"the library eSpeak NG cannot be loaded ({type(error).__name__}: {error}): "
            "pip install --force-reinstall espeakng-loader"
        ) from error


def _declare(handle: ctypes.CDLL) -> None:
    handle.espeak_Initialize.argtypes = (c_int, c_int, c_char_p, c_int)
    handle.espeak_SetSynthCallback.argtypes = (_Callback,)
    handle.espeak_SetVoiceByName.argtypes = (c_char_p,)
    handle.espeak_SetParameter.argtypes = (c_int, c_int, c_int)
    handle.espeak_Synth.argtypes = (c_char_p, c_size_t, c_uint, c_int, c_uint, c_uint, POINTER(c_uint), c_void_p)
    handle.espeak_ListVoices.argtypes = (POINTER(_Voice),)
    handle.espeak_ListVoices.restype = POINTER(POINTER(_Voice))


def _words(events: ctypes._Pointer[_Event]) -> Iterator[WordEvent]:
    index = 0
    while (event := events[index]).type != _LIST_TERMINATED:
        if event.type == _WORD:
            yield WordEvent(event.audio_position, event.text_position - 1)
        index += 1


def _pointers(found: ctypes._Pointer[ctypes._Pointer[_Voice]]) -> Iterator[_Voice]:
    index = 0
    while found[index]:
        yield found[index].contents
        index += 1


def _language_list(address: int) -> list[tuple[int, str]]:
    languages = []
    while priority := ctypes.string_at(address, 1)[0]:
        code = ctypes.string_at(address + 1)
        languages.append((priority, code.decode()))
        address += len(code) + 2
    return languages


def _languages(voices: Iterator[tuple[str, list[tuple[int, str]]]]) -> dict[str, str]:
    best: dict[str, tuple[int, str]] = {}
    for identifier, languages in voices:
        for priority, code in languages:
            best[code] = min(best.get(code, (priority, identifier)), (priority, identifier))
    return {code: identifier for code, (_, identifier) in sorted(best.items())}
