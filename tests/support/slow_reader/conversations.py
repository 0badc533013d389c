"""Conversations as they are found: messages, typed parts and ShareGPT turns, all to (role, content, trained)."""

import json
from collections.abc import Mapping
from typing import Any

from pyllm.data.columns import json_text
from tests.support.slow_reader.records import described
from tests.support.slow_reader.rows import BadFieldError, text_of

Turn = tuple[str, str, bool]

_ROLES = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "human": "user",
    "assistant": "assistant",
    "gpt": "assistant",
    "model": "assistant",
    "function_call": "assistant",
    "tool": "tool",
    "function": "tool",
    "observation": "tool",
    "ipython": "tool",
}
_MEDIA_PARTS = ("image", "audio", "video", "input_image", "input_audio", "input_video")


def conversation(value: Any, field: str) -> list[Turn]:
    """The turns of a list of messages.

    Roles of the common dialects become `system`, `user`, `assistant` and `tool`. A turn is trained where its
    `loss_weight` is above zero, else where the assistant speaks. Textual parts are joined by newlines.

    Args:
        value: Messages with `role` and `content` or `from` and `value`, or their JSON as text.
        field: The column's name, for errors.

    Raises:
        BadFieldError: A message is not one, or holds images, audio or video.
    """
    turns = []
    for place, item in enumerate(_listed(value, field)):
        where = f"{field}[{place}]"
        if not isinstance(item, dict):
            raise BadFieldError(where, f"is {described(item)}, not an object")
        role = _role(item, where)
        turns.append((role, _content(item, where), _trained(item, where, role)))
    return turns


def user_turns(value: Any, field: str) -> list[Turn]:
    """A list of texts as what the user says, turn by turn."""
    return [("user", text_of(item, f"{field}[{place}]"), False) for place, item in enumerate(_listed(value, field))]


def assistant_turns(value: Any, field: str) -> list[Turn]:
    """A list of texts as what the assistant says, turn by turn."""
    return [("assistant", text_of(item, f"{field}[{place}]"), True) for place, item in enumerate(_listed(value, field))]


def _listed(value: Any, field: str) -> list[Any]:
    if isinstance(value, str):
        # CSV has no lists, so they stand there as JSON.
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            raise BadFieldError(field, "is text, not a list") from None
    if not isinstance(value, list):
        raise BadFieldError(field, f"is {described(value)}, not a list")
    if not value:
        raise BadFieldError(field, "is an empty list")
    return value


def _role(item: Mapping[str, Any], where: str) -> str:
    key = "role" if item.get("role") is not None else "from"
    said = item.get(key)
    if said is None:
        raise BadFieldError(where, "has no `role` (or `from`)")
    role = _ROLES.get(text_of(said, f"{where}.{key}").lower())
    if role is None:
        raise BadFieldError(f"{where}.{key}", f"is `{said}`, which is no known role")
    return role


def _trained(item: Mapping[str, Any], where: str, role: str) -> bool:
    if isinstance(item.get("trained"), bool):
        return bool(item["trained"])
    weight = item.get("loss_weight")
    if weight is None:
        return role == "assistant"
    if not isinstance(weight, int | float):
        raise BadFieldError(f"{where}.loss_weight", f"is {described(weight)}, not a number")
    return weight > 0


def _content(item: Mapping[str, Any], where: str) -> str:
    key = "content" if item.get("content") is not None else "value"
    said, calls = item.get(key), item.get("tool_calls")
    texts = []
    if isinstance(said, list):
        texts = [_part(part, f"{where}.{key}[{place}]") for place, part in enumerate(said)]
    elif said is not None:
        texts = [text_of(said, f"{where}.{key}")]
    if isinstance(calls, list):
        texts = [text for text in texts if text] + [json_text(call) for call in calls]
    elif said is None:
        raise BadFieldError(where, "has no `content` (or `value`)")
    return "\n".join(texts)


def _part(part: Any, where: str) -> str:
    if isinstance(part, str):
        return part
    if not isinstance(part, dict):
        raise BadFieldError(where, f"is {described(part)}, not text or an object")
    kind = part.get("type")
    if not isinstance(kind, str):
        raise BadFieldError(f"{where}.type", f"is {described(kind)}, not text")
    if kind.startswith(_MEDIA_PARTS):
        raise BadFieldError(where, f"is of type `{kind}`: a multimodal row, which is not text", wrong_kind=True)
    key = next((key for key in ("value", "text", kind, "content") if part.get(key) is not None), None)
    if key is None:
        raise BadFieldError(where, f"is of type `{kind}` and has no text")
    return text_of(part[key], f"{where}.{key}", encode_lists=kind != "text")
