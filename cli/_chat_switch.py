"""What `/policy` changes in the settings of a conversation."""

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from pyllm.cli import _stream_options
from pyllm.cli._tables import readable
from pyllm.errors import SettingError

if TYPE_CHECKING:
    from pyllm.stream.settings import StreamSettings

_SWITCHES: dict[str, type[int] | type[float] | type[str]] = {
    "decay": float,
    "horizon-turns": int,
    "span-after": int,
    "span-before": int,
    "ties": str,
    "seed": int,
}
_PARTS = ("cache", "sinks", "entropy-tokens", "recent")


def switched(settings: "StreamSettings", words: Sequence[str]) -> "StreamSettings":
    """Settings as they are with what some words change: a policy's name, or `name=value`.

    Raises:
        SettingError: A word names nothing that can be changed, or its value makes no sense.
    """
    from pyllm.stream.settings import DEFAULT_HORIZON_TURNS

    changes: dict[str, Any] = {}
    parts: dict[str, int] = {}
    for number, word in enumerate(words):
        name, equals, text = word.partition("=")
        if not equals and not number:
            changes["policy"] = word
        elif equals and name in _PARTS:
            parts[name] = int(_value(name, text, int))
        elif word == "decay=auto":
            changes.setdefault("horizon_turns", DEFAULT_HORIZON_TURNS)
        elif equals and name in _SWITCHES:
            changes[name.replace("-", "_")] = _value(name, text, _SWITCHES[name])
        else:
            known = f"a policy's name, then name=value: {', '.join([*_SWITCHES, *_PARTS])}"
            raise SettingError(f"`{readable(word)}` is nothing to switch", hint=known)
    if changes.get("ties") not in (None, *_stream_options.Ties):
        raise SettingError(f"ties is {readable(changes['ties'])}: it must be newer or older")
    # A ratio of one's own and one that follows from a horizon leave each other out.
    if "decay" in changes:
        changes.setdefault("horizon_turns", None)
    elif "horizon_turns" in changes:
        changes["decay"] = 1.0
    if parts:
        budget = settings.budget
        whole = parts.get("cache", budget.tokens if "entropy-tokens" not in parts else None)
        given = (parts.get("sinks", budget.sinks), parts.get("entropy-tokens"), parts.get("recent", budget.recent))
        changes["budget"] = _stream_options.chat_budget(whole, *given)
    return replace(settings, **changes)


def _value(name: str, text: str, kind: type[int] | type[float] | type[str]) -> int | float | str:
    try:
        value = kind(text)
    except ValueError as error:
        raise SettingError(f"{name} is `{readable(text)}`: it must be a number") from error
    return value
