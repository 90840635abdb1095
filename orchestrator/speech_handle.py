"""SpeechHandle: one thing that the agent says, from the moment it is asked for. Knows nothing of how it is spoken."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Generator
from typing import TYPE_CHECKING, Any, Literal
from uuid import uuid4

from orchestrator.user_code import IN_A_THREAD, running_code

if TYPE_CHECKING:
    from orchestrator.utterance import Utterance
    from protocol.errors import AntiphonError

Kind = Literal["say", "reply"]


class SpeechHandle:
    """What `say` and `generate_reply` give. `await handle` waits until it was played to its end, or was cut off.

    A reply that calls functions and goes on with what they returned is one speech. Cancelling who awaits it leaves the
    speech alone; `interrupt()` ends it.
    """

    def __init__(self, kind: Kind, *, allow_interruptions: bool, turn: int) -> None:
        self.id = f"speech_{uuid4().hex}"
        self.kind = kind
        self.allow_interruptions = allow_interruptions
        self.turn = turn  # the user's turn that it answers or follows; 0: none yet
        self.error: AntiphonError | None = None  # why it failed
        self._interrupted = False
        self._silenced = False  # somebody asked for silence: nothing more is to be said
        self._over = asyncio.Event()
        self._utterances: list[Utterance] = []
        self._stop: Callable[[], object] | None = None  # cancels what is spoken or waits to be
        self._callbacks: list[Callable[[SpeechHandle], None]] = []

    @property
    def interrupted(self) -> bool:
        """Whether it was cut off, by the caller or by code, or never begun for that reason."""
        return self._interrupted

    @property
    def heard(self) -> str:
        """What the caller has heard of it so far: the beginning of `text`, in whole words."""
        return " ".join(heard for one in self._utterances if (heard := one.heard_text()))

    @property
    def text(self) -> str:
        """What has been written of it so far, heard or not."""
        return " ".join(text for one in self._utterances if (text := one.text()))

    def done(self) -> bool:
        """Whether it is over."""
        return self._over.is_set()

    def interrupt(self, *, force: bool = False) -> SpeechHandle:
        """Stop it at once; what is queued of it is dropped. Nothing happens when it is over.

        Raises RuntimeError where `allow_interruptions` is False, unless `force`; and in a function that is not async.
        """
        code = running_code.get()
        if code is not None and code.kind == "sync function":
            raise RuntimeError(IN_A_THREAD)
        if self.done() or self._silenced:
            return self
        if not (self.allow_interruptions or force):
            raise RuntimeError("this speech does not allow interruptions; interrupt(force=True) stops it all the same")
        self._silenced = True
        self._cut()
        return self

    def add_done_callback(self, callback: Callable[[SpeechHandle], None]) -> None:
        """Call it when the speech is over; at once if it is."""
        if self.done():
            callback(self)
        else:
            self._callbacks.append(callback)

    def __await__(self) -> Generator[Any, None, SpeechHandle]:
        return self._wait().__await__()

    def __repr__(self) -> str:
        state = "interrupted" if self._interrupted else "done" if self.done() else "going on"
        return f"<SpeechHandle {self.kind} {self.id[7:15]} {state}>"

    async def _wait(self) -> SpeechHandle:
        code = running_code.get()
        if code is None:
            await self._over.wait()
            return self
        if code.handle is self and not self.done():
            raise RuntimeError(
                f"{code.what} waits for the speech that has called it, which waits for the function to end: return "
                "instead, or await a speech of your own, as in `await context.agent.say(…)`"
            )
        with code.deadline.standing_still():
            await self._over.wait()
        return self

    def _cut(self) -> None:
        """Stop what is said, as the caller's voice does: what its functions give may still be answered."""
        if self._interrupted:
            return
        self._interrupted = True
        if self._stop is not None:
            self._stop()

    def _finish(self) -> None:
        """It is over. Called by who speaks it; safe to repeat."""
        if self.done():
            return
        self._over.set()
        self._stop = None
        for callback in self._callbacks:
            asyncio.get_running_loop().call_soon(callback, self)
        self._callbacks.clear()
