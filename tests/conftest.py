"""For every test: it must leave nothing behind, neither processes, threads, sockets nor files."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support import Snapshot, leaks_since, track_zmq

track_zmq()


@pytest.fixture(autouse=True)
def no_leaks() -> Iterator[None]:
    """Fails the test that left something behind, and names it."""
    before = Snapshot.take()
    yield
    if leaks := leaks_since(before):
        pytest.fail("this test left behind: " + "; ".join(leaks), pytrace=False)
