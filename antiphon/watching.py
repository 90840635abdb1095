"""Which Python files under a folder have changed, and whether they can be compiled. Looks at them again and again.

Asking the system to tell of changes would need another library, and tells nothing on network mounts. Knows nothing of
what runs.
"""

from __future__ import annotations

import os
import time
import warnings
from collections.abc import Iterator
from pathlib import Path

LOOK_EVERY_S = 0.5
LOOK_SHARE = 0.05  # of a processor, at most: a folder that takes longer to look through is looked at less often
SETTLE_S = 0.1  # without another change: an editor may write a file in several steps
SKIPPED = frozenset({"__pycache__", "node_modules", "site-packages"})

Seen = dict[Path, tuple[int, int, int]]


class Sources:
    """The Python files under a folder, or one file alone; hidden folders and virtual environments are left out."""

    def __init__(self, top: Path) -> None:
        self.top = top
        self._known = self._latest = self._look()
        self._broken: set[Path] = set()
        self._due = 0.0

    def __len__(self) -> int:
        return len(self._known)

    def changed(self) -> set[Path]:
        """What has been written, added or removed since the last call, once it has settled. Quick when it isn't due."""
        began = time.monotonic()
        if began < self._due:
            return set()
        found = self._look()
        if found != self._latest:
            self._latest = found
            self._due = began + SETTLE_S
            return set()
        took = time.monotonic() - began
        self._due = began + max(LOOK_EVERY_S, took / LOOK_SHARE)
        changed = {path for path, _ in found.items() ^ self._known.items()}
        self._known = found
        return changed

    def problems(self, changed: set[Path]) -> list[str]:
        """Why these files, or earlier ones that are not mended yet, can't be compiled: one text for each."""
        told = {path: problem for path in sorted(self._broken | changed) if (problem := compile_problem(path))}
        self._broken = set(told)
        return list(told.values())

    def _look(self) -> Seen:
        found: Seen = {}
        for entry in _python_files(self.top) if self.top.is_dir() else [self.top]:
            try:
                stat = entry.stat()
            except OSError:  # removed meanwhile, or a link to nowhere
                continue
            found[Path(entry)] = (stat.st_mtime_ns, stat.st_size, stat.st_ino)
        return found


def compile_problem(path: Path) -> str | None:
    """`FILE:LINE: what is wrong`, with the line itself; None for a file that compiles, or is gone."""
    try:
        source = path.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        return f"{path}: can't be read: {error.strerror}"
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the process that imports it tells them
            compile(source, str(path), "exec", dont_inherit=True)
    except SyntaxError as error:
        shown = [f"{path}:{error.lineno or 1}: {type(error).__name__}: {error.msg}"]
        if error.text and error.text.strip():
            indent = len(error.text) - len(error.text.lstrip())
            shown += [f"    {error.text.strip()}", f"    {' ' * max(0, (error.offset or 1) - 1 - indent)}^"]
        return "\n".join(shown)
    except ValueError as error:  # null bytes
        return f"{path}:1: {error}"
    return None


def _python_files(top: Path) -> Iterator[os.DirEntry[str]]:
    folders = [os.fspath(top)]
    while folders:
        try:
            with os.scandir(folders.pop()) as entries:
                inside = list(entries)
        except OSError:  # removed meanwhile, or another user's
            continue
        if any(entry.name == "pyvenv.cfg" for entry in inside):
            continue
        for entry in inside:
            if entry.name.endswith(".py"):
                yield entry
            elif not entry.name.startswith(".") and entry.name not in SKIPPED and entry.is_dir(follow_symlinks=False):
                folders.append(entry.path)
