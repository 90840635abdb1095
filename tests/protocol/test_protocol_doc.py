"""docs/protocol.md against the code: every message, field, limit, error code, and the bytes that it shows."""

from __future__ import annotations

from typing import Any

import pytest

import protocol.errors
from protocol.codec import Codec
from protocol.errors import AntiphonError
from tests.protocol.page import EXAMPLES, PAGE, filled


def test_the_page_is_as_the_code_is() -> None:
    page = PAGE.read_text(encoding="utf-8")
    assert filled(page) == page, "python -m tests.protocol.page brings docs/protocol.md up to date"


@pytest.mark.parametrize(("title", "codec", "message"), EXAMPLES, ids=[title for title, _, _ in EXAMPLES])
def test_the_bytes_that_the_page_shows_are_the_message(title: str, codec: Codec[Any], message: Any) -> None:
    shown = PAGE.read_text(encoding="utf-8").partition(f"{title} (")[2].partition("```\n")[2].partition("```")[0]
    blob = bytes.fromhex("".join(row[:48] for row in shown.splitlines()))
    assert codec.decode(blob) == message


def test_every_error_code_is_on_the_page() -> None:
    page = PAGE.read_text(encoding="utf-8")
    kinds = [
        kind for kind in vars(protocol.errors).values() if isinstance(kind, type) and issubclass(kind, AntiphonError)
    ]
    for code in {kind.code for kind in kinds} | {"agent_failed"}:
        assert f"| `{code}` |" in page, code
