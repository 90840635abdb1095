"""One running stack for all tests that leave it as it was."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.real_stack import RealStack, real_stack


@pytest.fixture(scope="session")
def stack() -> Iterator[RealStack]:
    """A stack as `antiphon up` starts it: two nodes of each service."""
    with real_stack() as running:
        yield running
