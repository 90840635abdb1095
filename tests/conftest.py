"""For every test: it must leave nothing behind, neither processes, threads, sockets nor files.

A test that uses a fixture of its module or session is not looked at alone, for such a fixture may well replace what it
owns in the middle of a test; its whole module is. What a session's fixture starts is named by `expect_process`.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support import Snapshot, leaks_since, track_zmq

track_zmq()


@pytest.fixture(scope="module", autouse=True)
def no_leaks_of_module() -> Iterator[None]:
    """Fails the last test of a module that left something behind, and names it."""
    before = Snapshot.take()
    yield
    _fail_for(leaks_since(before), "this module")


@pytest.fixture(autouse=True)
def no_leaks(request: pytest.FixtureRequest) -> Iterator[None]:
    """Fails the test that left something behind, and names it."""
    if _shares_fixtures(request.node):
        yield
        return
    before = Snapshot.take()
    yield
    _fail_for(leaks_since(before), "this test")


@pytest.fixture
def short_path() -> Iterator[Path]:
    """A folder of the test's own whose path is short: the address of a socket has 107 bytes at most."""
    with tempfile.TemporaryDirectory(prefix="ap-") as folder:
        yield Path(folder)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Where tests are run by several processes, a module is run by one, and `tests/stack` too: they share fixtures."""
    for item in items:
        module = item.nodeid.partition("::")[0]
        group = "tests/stack" if module.startswith("tests/stack/") else module
        item.add_marker(pytest.mark.xdist_group(group))


def _shares_fixtures(test: pytest.Item) -> bool:
    """Whether it uses a fixture of ours that lives longer than the test."""
    known = test._fixtureinfo.name2fixturedefs  # type: ignore[attr-defined]  # pytest has no public way to ask
    used = [definitions[-1] for name, definitions in known.items() if name != no_leaks_of_module.__name__]
    return any(definition.scope != "function" and definition.baseid for definition in used)


def _fail_for(leaks: list[str], who: str) -> None:
    if leaks:
        pytest.fail(f"{who} left behind: " + "; ".join(leaks), pytrace=False)
