"""Hooks as functions of a `Context`: added to the agent, run for every task, or around every turn of the caller."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from orchestrator.agent import VoiceAgent
    from orchestrator.speech_handle import SpeechHandle

log = logging.getLogger(__name__)

HookName = Literal["on_enter", "on_end_of_turn", "on_exit"]
Scope = Literal["task", "turn"]
Connect = Callable[[], AbstractAsyncContextManager[Any]]
Loader = Callable[["Context"], Awaitable[Any]]


@dataclass(frozen=True, slots=True)
class LastResponse:
    """The agent's newest reply to the caller. `ok`: it was made and not cut off; `error`: why it failed, or None."""

    ok: bool = False
    text: str = ""
    interrupted: bool = False
    error: BaseException | None = None


class Context:
    """What a hook function knows of its conversation. One for each conversation; all its hooks share it.

    - `conversation_id`, `user_id`: of the session.
    - `store`: a dict that is kept as long as the conversation.
    - `temp`: a dict for what is not: `clear_temp_data()` empties it.
    - `last_response`: the newest reply; `turn_duration`: seconds since the caller's turn began (0.0 before the first).
    - `config`: what the config loader gave last.
    """

    def __init__(self, agent: VoiceAgent, hooks: Hooks, conversation_id: str, user_id: str) -> None:
        self.agent = agent
        self.conversation_id = conversation_id
        self.user_id = user_id
        self.store: dict[str, Any] = {}
        self.temp: dict[str, Any] = {}
        self.config: Any = None
        self.session_active = True  # whether the caller can still hear something
        self.last_response = LastResponse()
        self.turn = 0
        self.turn_text = ""
        self._hooks = hooks
        self._turn_began = 0.0
        self._turn_ended = 0.0

    @property
    def turn_duration(self) -> float:
        """Seconds from the beginning of the caller's turn until its reply had left, or until now."""
        if not self._turn_began:
            return 0.0
        return (self._turn_ended or self.agent._now()) - self._turn_began

    @property
    def turn_data(self) -> dict[str, Any]:
        """The current turn in plain figures, for analytics."""
        response = self.last_response
        return {
            "conversation_id": self.conversation_id,
            "user_id": self.user_id,
            "turn": self.turn,
            "duration_s": round(self.turn_duration, 3),
            "user_text": self.turn_text,
            "response_text": response.text,
            "ok": response.ok,
            "interrupted": response.interrupted,
        }

    def clear_temp_data(self) -> None:
        """Forget what is in `temp`."""
        self.temp.clear()

    async def send_message(self, text: str) -> SpeechHandle | None:
        """Say this to the caller, after what is being said. Returns at once; `await` the handle to wait for its end.

        None when there is nobody who could hear it (`session_active` is False): nothing is said then.
        """
        return self.agent.say(text) if self.session_active else None

    def log_error(self, message: str, error: BaseException | None = None) -> None:
        """Write an error to the log, with the conversation's id and the traceback."""
        log.error("conversation %s: %s", self.conversation_id, message, exc_info=error)

    def get_db_connection(self) -> AbstractAsyncContextManager[Any]:
        """A connection of the factory that was given as `VoiceAgent(db_connection=…)`, for `async with`."""
        if self._hooks.db_connection is None:
            raise RuntimeError("get_db_connection() needs VoiceAgent(db_connection=…), a function that opens one")
        return self._hooks.db_connection()

    async def load_config(self) -> Any:
        """Run the config loader, keep what it gives, and return it. Raises what the loader raises."""
        return await self._hooks.load_config(self)

    def fallback_to_cached_config(self) -> Any:
        """Take what the config loader gave when it last succeeded, in any conversation of this process.

        Returns it and puts it into `config`. Raises LookupError when it never has.
        """
        self.config = self._hooks.cached_config()
        return self.config

    def _begin_turn(self, turn: int, now: float) -> None:
        self.turn, self.turn_text = turn, ""
        self._turn_began, self._turn_ended = now, 0.0

    def _end_turn(self, now: float) -> None:
        self._turn_ended = now


Hook = Callable[[Context], Awaitable[None]]

# What each loader gave when it last succeeded: shared by the conversations of a process, as the loader is.
_loaded: dict[Loader, Any] = {}


class Hooks:
    """The hook functions of one agent."""

    def __init__(self, db_connection: Connect | None = None) -> None:
        self.db_connection = db_connection
        self._hooks: dict[tuple[Scope, HookName], list[Hook]] = {}
        self._loader: Loader | None = None

    def add(
        self,
        *,
        on_enter: Hook | None = None,
        on_end_of_turn: Hook | None = None,
        on_exit: Hook | None = None,
        scope: Scope = "task",
    ) -> None:
        """Run these for every task (`scope="task"`), or around every turn of the caller (`scope="turn"`).

        Of a turn: `on_enter` when the caller's input starts, `on_end_of_turn` when the reply has been made, `on_exit`
        when it has left. Several are run in the order in which they were added, those of `on_exit` in reverse.
        """
        if scope not in ("task", "turn"):
            raise ValueError(f'scope={scope!r}: it is "task" or "turn"')
        given: dict[HookName, Hook | None] = {
            "on_enter": on_enter,
            "on_end_of_turn": on_end_of_turn,
            "on_exit": on_exit,
        }
        if not any(given.values()):
            raise ValueError("hooks.add() needs at least one of on_enter=, on_end_of_turn=, on_exit=")
        for name, hook in given.items():
            if hook is None:
                continue
            if not _is_async(hook):
                raise TypeError(f"{name}={hook!r} must be an async function of one Context: `async def hook(ctx)`")
            self._hooks.setdefault((scope, name), []).append(hook)

    def set_config_loader(self, loader: Loader) -> None:
        """`async def loader(ctx)`: what `ctx.load_config()` runs, and `ctx.fallback_to_cached_config()` remembers."""
        if not _is_async(loader):
            raise TypeError(f"a config loader must be an async function of one Context, not {loader!r}")
        self._loader = loader

    def of(self, scope: Scope, name: HookName) -> list[Hook]:
        """In the order in which they are run."""
        hooks = self._hooks.get((scope, name), [])
        return hooks[::-1] if name == "on_exit" else hooks[:]

    async def load_config(self, ctx: Context) -> Any:
        """Run the loader and remember what it gave."""
        if self._loader is None:
            raise RuntimeError("load_config() needs agent.hooks.set_config_loader(…)")
        ctx.config = _loaded[self._loader] = await self._loader(ctx)
        return ctx.config

    def cached_config(self) -> Any:
        """What the loader gave when it last succeeded; LookupError when it never has."""
        if self._loader is None:
            raise RuntimeError("fallback_to_cached_config() needs agent.hooks.set_config_loader(…)")
        if self._loader not in _loaded:
            raise LookupError("there is no cached config: the config loader has not succeeded yet in this process")
        return _loaded[self._loader]


def _is_async(function: Any) -> bool:
    if inspect.iscoroutinefunction(function):
        return True
    return callable(function) and inspect.iscoroutinefunction(type(function).__call__)
