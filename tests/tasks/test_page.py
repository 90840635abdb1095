"""The page that lists these tests names only tests that there are, and examples that run."""

from __future__ import annotations

import re
from pathlib import Path

HERE = Path(__file__).parent
PAGE = HERE.parent.parent / "docs" / "tasks.md"


def test_every_test_that_the_page_names_exists() -> None:
    named = set(re.findall(r"`(test_\w+)`", PAGE.read_text()))
    there = {name for file in HERE.glob("test_*.py") for name in re.findall(r"def (test_\w+)", file.read_text())}
    assert len(named) > 100
    assert sorted(named - there) == []


def test_every_event_is_in_the_page() -> None:
    from orchestrator.events import NAMES

    page = PAGE.read_text()
    assert [name for name in NAMES.values() if f"`{name}`" not in page] == []
