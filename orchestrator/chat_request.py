"""A chat context as an LLM node is sent it. What the vendors want to see, the engines know."""

from __future__ import annotations

from collections.abc import Iterable

from orchestrator import chat
from protocol.node import ChatItem, FunctionCall


def chat_request(instructions: str, items: Iterable[chat.ChatItem]) -> list[ChatItem]:
    """Instructions first, then what was said. A function's output stands right after the calls of its step.

    Calls without an output, outputs without a call and handoffs are left out: LLM interfaces refuse the former.
    """
    items = list(items)
    outputs = _outputs(items)
    request = [ChatItem("system", instructions)] if instructions else []
    pending: list[chat.FunctionOutput] = []
    for item in items:
        if isinstance(item, chat.FunctionCall) and item.id in outputs:
            request.append(ChatItem("assistant", call=FunctionCall(item.call_id, item.name, item.arguments)))
            pending.append(outputs[item.id])
            continue
        _release(pending, request)
        if isinstance(item, chat.ChatMessage) and item.text:
            request.append(ChatItem(item.role, item.text))
    _release(pending, request)
    return request


def _outputs(items: list[chat.ChatItem]) -> dict[str, chat.FunctionOutput]:
    """The output of each call, by the call's own id. Some LLMs use a call_id again: it is the next one that counts."""
    outputs: dict[str, chat.FunctionOutput] = {}
    following: dict[str, chat.FunctionOutput] = {}  # by call_id
    for item in reversed(items):
        if isinstance(item, chat.FunctionOutput):
            following[item.call_id] = item
        elif isinstance(item, chat.FunctionCall) and item.call_id in following:
            outputs[item.id] = following.pop(item.call_id)
    return outputs


def _release(pending: list[chat.FunctionOutput], request: list[ChatItem]) -> None:
    for output in pending:
        text = f"Error: {output.output}" if output.is_error else output.output
        request.append(ChatItem("function", text, call_id=output.call_id))
    pending.clear()
