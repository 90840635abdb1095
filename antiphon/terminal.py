"""Lines that a person types, or that a pipe gives, without blocking the event loop.

Both are read in a thread that nobody waits for: it may be blocked when the process ends.
"""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import termios
import threading
from collections.abc import Callable
from contextlib import suppress
from types import ModuleType, TracebackType
from typing import Any, Protocol, Self, TypeVar

from rich.cells import cell_len

readline: ModuleType | None
try:
    import readline
except ImportError:  # a Python that was built without it: the terminal's own editing will do
    readline = None

Result = TypeVar("Result")

STDIN = 0
READ_BYTES = 65_536
UP, CLEAR = "\x1b[A", "\x1b[J"
NO_PASTE_MARKS = "\x1b[?2004l"  # a terminal marks what is pasted while readline reads
_STYLE = re.compile(r"\x1b\[[0-9;]*m")


class Lines(Protocol):
    """What is typed."""

    async def read(self) -> str | None:
        """The next line, without its end; None when there are no more. Cancelling leaves a thread that still reads."""

    def hide(self) -> None:
        """Something else is about to be printed: take the prompt off the screen, if it is there."""

    def show(self) -> None:
        """Put it back."""


class PipedLines:
    """Lines of a pipe, a file, or a terminal without a prompt."""

    def __init__(self) -> None:
        self._read = b""
        self._ended = False

    async def read(self) -> str | None:
        while b"\n" not in self._read and not self._ended:
            more = await in_thread(lambda: os.read(STDIN, READ_BYTES))
            self._read += more
            self._ended = not more
        if not self._read:
            return None
        line, _, self._read = self._read.partition(b"\n")
        return line.decode(errors="replace").rstrip("\r")

    def hide(self) -> None:
        """There is no prompt."""

    def show(self) -> None:
        """There is no prompt."""


class TypedLines:
    """Lines that are typed at a prompt, with editing and history. As a context manager: gives the terminal back."""

    def __init__(self, prompt: str, write: Callable[[str], None]) -> None:
        """`prompt` may hold styles; `write` puts text on the screen as it is."""
        self._prompt = prompt
        self._write = write
        self._asking = False  # readline has the terminal
        self._hidden = False

    def __enter__(self) -> Self:
        self._before = termios.tcgetattr(STDIN)
        self._quiet = termios.tcgetattr(STDIN)
        self._quiet[3] &= ~termios.ECHO  # what is typed while the agent writes is shown at the next prompt
        self._set(self._quiet)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._asking:
            self._write(f"{NO_PASTE_MARKS}\n")
        self._set(self._before)

    async def read(self) -> str | None:
        self._asking, self._hidden = True, False
        line = await in_thread(self._ask)  # cancelled, it goes on asking
        self._asking = False
        if line is None:
            self._write("\n")
        return line

    def hide(self) -> None:
        if self._asking and not self._hidden:
            self._hidden = True
            rows = cell_len(_STYLE.sub("", self._prompt) + self._typed) // max(1, shutil.get_terminal_size().columns)
            self._write("\r" + UP * rows + CLEAR)

    def show(self) -> None:
        if self._asking and self._hidden:
            self._hidden = False
            self._write(self._prompt + self._typed)

    @property
    def _typed(self) -> str:
        return readline.get_line_buffer() if readline is not None else ""

    @staticmethod
    def _set(attributes: list[Any]) -> None:
        with suppress(termios.error):  # the terminal was closed
            termios.tcsetattr(STDIN, termios.TCSADRAIN, attributes)

    def _ask(self) -> str | None:
        marked = _STYLE.sub(lambda style: f"\001{style[0]}\002", self._prompt) if readline is not None else self._prompt
        self._set(self._before)  # readline shows nothing where the terminal does not
        try:
            return input(marked)
        except (EOFError, OSError):  # Ctrl-D, or the terminal was closed
            return None
        finally:
            self._set(self._quiet)


async def in_thread(read: Callable[[], Result]) -> Result:
    """What `read` returns or raises, from a thread that does not keep the process alive."""
    loop = asyncio.get_running_loop()
    done: asyncio.Future[Result] = loop.create_future()

    def finish(result: Result | None, error: BaseException | None) -> None:
        if done.done():  # cancelled
            return
        if error is not None:
            done.set_exception(error)
        else:
            done.set_result(result)  # type: ignore[arg-type]  # there is no error

    def run() -> None:
        result, error = None, None
        try:
            result = read()
        except Exception as raised:  # noqa: BLE001  # raised where it is awaited
            error = raised
        with suppress(RuntimeError):  # the loop has ended meanwhile, and nobody waits any more
            loop.call_soon_threadsafe(finish, result, error)

    threading.Thread(target=run, name="stdin", daemon=True).start()
    return await done
