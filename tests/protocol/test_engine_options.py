"""Engine options: checked where they are written, and once more where they arrive."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import Meta

from protocol.engine import EngineOptions, EngineSpec
from protocol.errors import AntiphonError, OptionError
from protocol.node import TO_NODE, OpenStream


class TTS(EngineOptions, frozen=True, kw_only=True):
    """The options of some engine."""

    service = "tts"
    engine = "some"

    voice: Literal["ann", "bob"] = "ann"
    speed: Annotated[float, Meta(ge=0.5, le=2.0)] = 1.0
    words: tuple[str, ...] = ()
    seed: int | None = None

    def check(self) -> None:
        if self.voice == "bob" and self.speed > 1.5:
            raise self.reject("speed", "bob speaks at most at 1.5")


valid = st.builds(
    TTS,
    voice=st.just("ann"),
    speed=st.floats(0.5, 2.0),
    words=st.lists(st.text(max_size=5), max_size=3).map(tuple),
    seed=st.none() | st.integers(-(2**63), 2**63),
)
anything = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats()
    | st.text(max_size=10)
    | st.binary(max_size=9),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
)


@given(valid)
def test_options_arrive_as_they_were_written(options: TTS) -> None:
    opening = OpenStream(1, 0, 0, "s", options.spec())
    arrived = TO_NODE.decode(TO_NODE.encode(opening))
    assert isinstance(arrived, OpenStream)
    assert (arrived.spec.service, arrived.spec.engine) == ("tts", "some")
    assert TTS.from_wire(arrived.spec.options) == options


def test_only_what_differs_from_the_defaults_travels() -> None:
    assert TTS().spec() == EngineSpec("tts", "some", {})
    assert TTS(speed=1.5, words=("a",)).spec().options == {"speed": 1.5, "words": ("a",)}
    assert str(TTS().spec()) == "tts/some"


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"speed": 3}, r"^some\.TTS: option 'speed' is 3; expected `float` <= 2\.0$"),
        ({"speed": "fast"}, r"^some\.TTS: option 'speed' is 'fast'; expected `float`, got `str`$"),
        ({"voice": "Carl"}, r"^some\.TTS: option 'voice' is 'Carl'; invalid enum value 'Carl'$"),
        ({"words": ["a", 1]}, r"option 'words' is \['a', 1\]; expected `str`, got `int` - at `\$\[1\]`$"),
        ({"voice": "bob", "speed": 2.0}, r"option 'speed' is 2\.0; bob speaks at most at 1\.5$"),
    ],
)
def test_a_wrong_value_is_refused_where_it_is_written_and_where_it_arrives(options: Any, problem: str) -> None:
    with pytest.raises(OptionError, match=problem):
        TTS(**options)
    with pytest.raises(OptionError, match=problem) as caught:
        TTS.from_wire(options)
    assert (caught.value.code, caught.value.category) == ("bad_option", "configuration")


def test_an_option_that_does_not_exist_is_refused_with_those_that_do() -> None:
    with pytest.raises(
        OptionError, match="'pitch' is 1; there is no such option; allowed are voice, speed, words, seed"
    ):
        TTS.from_wire({"pitch": 1})


@settings(max_examples=300)
@given(st.dictionaries(st.sampled_from(["voice", "speed", "words", "seed", "pitch"]) | st.text(), anything, max_size=4))
def test_whatever_arrives_it_is_an_option_error_or_an_engine_options(options: dict[str, Any]) -> None:
    problem = ""
    try:
        TTS.from_wire(options)
    except AntiphonError as error:
        problem = str(error)
    assert len(problem) < 1_000


@pytest.mark.parametrize("value", ["x" * 1_000_000, ["x" * 1_000] * 1_000, {"k": "x" * 1_000_000}, 10**4_000])
def test_what_an_error_repeats_of_a_value_is_short(value: Any) -> None:
    for options in ({"voice": value}, {"pitch": value}, {"x" * 100_000: value}):
        with pytest.raises(OptionError) as caught:
            TTS.from_wire(options)
        assert len(str(caught.value)) < 1_000


def test_a_deep_value_is_refused_too() -> None:
    deep: Any = "bottom"
    for _ in range(900):
        deep = [deep]
    with pytest.raises(OptionError):
        TTS.from_wire({"speed": deep})


def test_options_cannot_be_changed_afterwards() -> None:
    with pytest.raises(AttributeError):
        TTS().speed = 2.0  # type: ignore[misc]
    assert msgspec.structs.replace(TTS(), speed=2.0).speed == 2.0
    with pytest.raises(OptionError):
        msgspec.structs.replace(TTS(), speed=9.0)
