"""Hooks as functions of a `Context`: added to the agent, run for every task, or around every turn of the caller."""

from __future__ import annotations

import copy
import inspect
import logging
import weakref
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
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


@dataclass(slots=True)
class TurnFigures:
    """One turn of the caller. `began` and `ended` in monotonic seconds; 0.0: not yet."""

    number: int = 0
    began: float = 0.0
    ended: float = 0.0
    text: str = ""
    response: LastResponse = field(default_factory=LastResponse)


@dataclass(slots=True)
class _Shared:
    """What the contexts of a conversation have in common besides their dicts."""

    config: Any = None
    session_active: bool = True
    last_response: LastResponse = field(default_factory=LastResponse)


class Context:
    """What a hook function knows of its conversation, and of a turn of it: its own, else the newest.

    - `conversation_id`, `user_id`: of the session.
    - `store`: a dict that is kept as long as the conversation, and shared by all its hooks.
    - `temp`: a dict for what is not: `clear_temp_data()` empties it.
    """

    def __init__(self, agent: VoiceAgent, hooks: Hooks, conversation_id: str, user_id: str) -> None:
        self.agent = agent
        self.conversation_id = conversation_id
        self.user_id = user_id
        self.store: dict[str, Any] = {}
        self.temp: dict[str, Any] = {}
        self._hooks = hooks
        self._shared = _Shared()
        self._figures = TurnFigures()

    @property
    def config(self) -> Any:
        """What the config loader gave last; None before that."""
        return self._shared.config

    @config.setter
    def config(self, config: Any) -> None:
        self._shared.config = config

    @property
    def session_active(self) -> bool:
        """Whether the caller can still hear something."""
        return self._shared.session_active

    @property
    def last_response(self) -> LastResponse:
        """The newest reply to a turn of the caller."""
        return self._shared.last_response

    @property
    def turn(self) -> int:
        """The number of the turn; 0 before the first."""
        return self._figures.number

    @property
    def turn_duration(self) -> float:
        """Seconds from the beginning of the turn until its reply had left, or until now; 0.0 before the first."""
        figures = self._figures
        return (figures.ended or self.agent._now()) - figures.began if figures.began else 0.0

    @property
    def turn_data(self) -> dict[str, Any]:
        """The turn in plain figures, for analytics. As long as it has no reply, `response_text` is empty."""
        response = self._figures.response
        return {
            "conversation_id": self.conversation_id,
            "user_id": self.user_id,
            "turn": self.turn,
            "duration_s": round(self.turn_duration, 3),
            "user_text": self._figures.text,
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

    def _begin_turn(self, number: int, now: float) -> Context:
        """The context of that turn's hooks: another one may begin before they have run."""
        self._figures = TurnFigures(number, now)
        return copy.copy(self)

    def _note_text(self, text: str) -> None:
        self._figures.text = text

    def _note_response(self, response: LastResponse) -> None:
        self._figures.response = self._shared.last_response = response

    def _end_turn(self, now: float) -> None:
        self._figures.ended = self._figures.ended or now


Hook = Callable[[Context], Awaitable[None]]

# What each loader gave when it last succeeded: shared by the conversations of a process, and kept as long as the loader
# (for a method, its object) is: one that is made anew for each conversation must not fill the memory.
_loaded: dict[tuple[int, Any], Any] = {}


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
        ctx.config = await self._loader(ctx)
        _remember(self._loader, ctx.config)
        return ctx.config

    def cached_config(self) -> Any:
        """What the loader gave when it last succeeded; LookupError when it never has."""
        if self._loader is None:
            raise RuntimeError("fallback_to_cached_config() needs agent.hooks.set_config_loader(…)")
        if _key(self._loader) not in _loaded:
            raise LookupError("there is no cached config: the config loader has not succeeded yet in this process")
        return _loaded[_key(self._loader)]


def _key(loader: Any) -> tuple[int, Any]:
    return id(getattr(loader, "__self__", loader)), getattr(loader, "__func__", None)


def _remember(loader: Any, config: Any) -> None:
    key = _key(loader)
    if key not in _loaded:
        weakref.finalize(getattr(loader, "__self__", loader), _loaded.pop, key, None)
    _loaded[key] = config


def _is_async(function: Any) -> bool:
    if inspect.iscoroutinefunction(function):
        return True
    return callable(function) and inspect.iscoroutinefunction(type(function).__call__)
