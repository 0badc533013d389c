"""What a chat request may be: its JSON text in, a checked request out, or the field that is wrong.

A field that this server knows and has no use for is ignored; one that would change the answer and cannot be honoured
is refused, as is one that nobody knows: an answer is never quietly another than the one that was asked for. A null
field counts as left out.
"""

import json
import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NoReturn

from pyllm.stream.generation import Sampling
from pyllm.stream.serving.refusals import Refusal, wrong

CONVERSATION_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
"""Names of conversations: they name folders too."""

_IGNORED = frozenset(
    (
        *("metadata", "parallel_tool_calls", "prompt_cache_key", "prompt_cache_retention", "safety_identifier"),
        *("service_tier", "store", "user"),
    )
)
_NEUTRAL: dict[str, Callable[[Any], bool]] = {
    "frequency_penalty": lambda value: _is_number(value) and value == 0,
    "function_call": lambda value: value == "none",
    "functions": lambda value: value == [],
    "logit_bias": lambda value: value == {},
    "logprobs": lambda value: value is False,
    "modalities": lambda value: value == ["text"],
    "n": lambda value: _is_whole(value) and value == 1,
    "presence_penalty": lambda value: _is_number(value) and value == 0,
    "response_format": lambda value: value == {"type": "text"},
    "tool_choice": lambda value: value in ("none", "auto"),
    "tools": lambda value: value == [],
    "top_logprobs": lambda value: _is_whole(value) and value == 0,
}
"""Parameters that are taken only where they change nothing."""
_KNOWN = frozenset(
    (
        *("conversation_id", "max_completion_tokens", "max_tokens", "messages", "model", "seed", "stop", "stream"),
        *("stream_options", "temperature", "top_p"),
    )
)
_SYSTEM_ROLES, _ROLES = ("system", "developer"), ("system", "developer", "user", "assistant")
_MOST_STOPS, _LONGEST_STOP = 4, 256
_HIGHEST_TEMPERATURE = 2.0
_BETWEEN = "\n\n"


@dataclass(frozen=True, slots=True)
class Limits:
    """How much a request may ask for.

    Args:
        request_bytes: Most bytes of a body.
        prompt_tokens: Most tokens of its messages.
        answer_tokens: Most tokens of an answer that it may ask for.
    """

    request_bytes: int = 1 << 20
    prompt_tokens: int = 32_768
    answer_tokens: int = 4_096


@dataclass(frozen=True, slots=True)
class ChatRequest:
    """A request that may be answered.

    Args:
        model: The model it asks for; None leaves that open.
        system: The text that stands before everything.
        told: Questions and the answers that stand behind them, all of them said before.
        question: What is to be answered.
        sampling: How the answer is chosen.
        seed: Of all chance in the answer; None leaves it to the server.
        stops: Texts before which the answer ends.
        stream: Whether the answer is sent as it comes.
        include_usage: Whether a stream ends with the counts of tokens.
        conversation_id: Which conversation it belongs to; None for one of its own.
    """

    model: str | None
    system: str | None
    told: tuple[tuple[str, str], ...]
    question: str
    sampling: Sampling
    seed: int | None
    stops: tuple[str, ...]
    stream: bool
    include_usage: bool
    conversation_id: str | None


def read_request(body: bytes, limits: Limits, usual: Sampling) -> ChatRequest:
    """Check a request.

    Args:
        body: Its JSON text.
        limits: How much it may ask for.
        usual: How answers are chosen where it says nothing.

    Raises:
        Refusal: It is wrong; the refusal names the field.
    """
    fields = {name: value for name, value in _object_of(body).items() if value is not None}
    for name in sorted(fields):
        _check_known(name, fields[name])
    system, told, question = _said(fields.get("messages"))
    stream = _flag(fields, "stream")
    return ChatRequest(
        model=_model(fields),
        system=system,
        told=told,
        question=question,
        sampling=_sampling(fields, limits, usual),
        seed=_seed(fields),
        stops=_stops(fields.get("stop")),
        stream=stream,
        include_usage=_include_usage(fields.get("stream_options"), stream=stream),
        conversation_id=_conversation_id(fields),
    )


def check_conversation_id(name: str) -> str:
    """A name of a conversation as it was given.

    Raises:
        Refusal: It cannot be one.
    """
    if not CONVERSATION_ID.fullmatch(name):
        raise wrong(
            "`conversation_id` takes 1 to 100 letters, digits, dots, dashes and underscores (ASCII), and begins with a"
            " letter or a digit",
            "conversation_id",
        )
    return name


def _object_of(body: bytes) -> dict[str, Any]:
    def no_number(name: str) -> NoReturn:
        raise ValueError(f"{name} is no JSON number")

    try:
        value = json.loads(body.decode("utf-8"), parse_constant=no_number)
        # Half a character cannot be tokenized, wherever in the body it stands.
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        raise wrong("the body holds half a character", None, "invalid_json") from error
    except (ValueError, RecursionError) as error:
        raise wrong(f"the body is no JSON: {error}", None, "invalid_json") from error
    if not isinstance(value, dict):
        raise wrong("the body is no JSON object", None, "invalid_json")
    return value


def _check_known(name: str, value: Any) -> None:
    if name in _KNOWN or name in _IGNORED:
        return
    if name not in _NEUTRAL:
        raise wrong(f"`{_short(name)}` is no parameter of this server", _short(name), "unknown_parameter")
    if not _NEUTRAL[name](value):
        raise wrong(f"`{name}` with this value is not supported here", name, "unsupported_parameter")


def _said(messages: Any) -> tuple[str | None, tuple[tuple[str, str], ...], str]:
    """The system text, what was said and answered before, and the question."""
    if messages is None:
        raise wrong("`messages` is missing", "messages", "missing_required_parameter")
    if not isinstance(messages, list) or not messages:
        raise wrong("`messages` is no list of messages", "messages", "invalid_type")
    system: list[str] = []
    said: list[tuple[str, list[str]]] = []
    for place, message in enumerate(messages):
        role, text = _message(message, f"messages[{place}]")
        if role in _SYSTEM_ROLES:
            if said:
                raise wrong("a system message stands behind another message", f"messages[{place}].role")
            system.append(text)
        elif said and said[-1][0] == role:
            said[-1][1].append(text)
        elif not said and role == "assistant":
            raise wrong("an answer stands before any question", f"messages[{place}].role")
        else:
            said.append((role, [text]))
    if not said or said[-1][0] != "user":
        raise wrong("the last message is not the user's", f"messages[{len(messages) - 1}].role")
    texts = [_BETWEEN.join(parts) for _, parts in said]
    told = tuple(zip(texts[:-1:2], texts[1::2], strict=True))
    return _BETWEEN.join(system) if system else None, told, texts[-1]


def _message(message: Any, place: str) -> tuple[str, str]:
    if not isinstance(message, dict):
        raise wrong(f"`{place}` is no object", place, "invalid_type")
    role, content = message.get("role"), message.get("content")
    if role not in _ROLES:
        known = ", ".join(f"`{each}`" for each in _ROLES)
        raise wrong(f"`{place}.role` is none of {known}", f"{place}.role")
    for name, value in message.items():
        # What other servers put into their answers comes back empty.
        if name not in ("role", "content", "name") and value not in (None, []):
            raise wrong(
                f"`{place}.{_short(name)}` is not supported", f"{place}.{_short(name)}", "unsupported_parameter"
            )
    if isinstance(content, list):
        content = "".join(_part(part, f"{place}.content[{number}]") for number, part in enumerate(content))
    if not isinstance(content, str):
        raise wrong(f"`{place}.content` is neither text nor a list of texts", f"{place}.content", "invalid_type")
    if not content and role == "user":
        raise wrong(f"`{place}.content` is empty", f"{place}.content")
    return str(role), content


def _part(part: Any, place: str) -> str:
    text = part.get("text") if isinstance(part, dict) and part.get("type") == "text" else None
    if not isinstance(text, str):
        raise wrong(f"`{place}` is no part of type `text`", place, "invalid_type")
    return text


def _model(fields: dict[str, Any]) -> str | None:
    name = fields.get("model")
    if name is not None and not isinstance(name, str):
        raise wrong("`model` is no text", "model", "invalid_type")
    return name


def _sampling(fields: dict[str, Any], limits: Limits, usual: Sampling) -> Sampling:
    temperature = _number(fields, "temperature", usual.temperature)
    if not 0.0 <= temperature <= _HIGHEST_TEMPERATURE:
        raise wrong(f"`temperature` is {temperature:g}: it must be from 0 to {_HIGHEST_TEMPERATURE:g}", "temperature")
    top_p = _number(fields, "top_p", usual.top_p)
    if not 0.0 < top_p <= 1.0:
        raise wrong(f"`top_p` is {top_p:g}: it must be above 0 and at most 1", "top_p")
    names = [name for name in ("max_completion_tokens", "max_tokens") if name in fields]
    for name in names:
        if not _is_whole(fields[name]):
            raise wrong(f"`{name}` is no whole number", name, "invalid_type")
        if not 1 <= fields[name] <= limits.answer_tokens:
            raise wrong(f"`{name}` is not from 1 to {limits.answer_tokens:,}, the most of this server", name)
    if len({fields[name] for name in names}) > 1:
        raise wrong("`max_completion_tokens` and `max_tokens` contradict each other", "max_tokens")
    return Sampling(temperature, top_p, fields[names[0]] if names else min(usual.max_new_tokens, limits.answer_tokens))


def _seed(fields: dict[str, Any]) -> int | None:
    seed = fields.get("seed")
    if seed is None:
        return None
    if not _is_whole(seed):
        raise wrong("`seed` is no whole number", "seed", "invalid_type")
    if not -(2**63) <= seed < 2**64:
        raise wrong("`seed` has more than 64 bits", "seed")
    return int(seed)


def _stops(value: Any) -> tuple[str, ...]:
    if value is None:
        return ()
    texts = [value] if isinstance(value, str) else value
    if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
        raise wrong("`stop` is neither text nor a list of texts", "stop", "invalid_type")
    if len(texts) > _MOST_STOPS:
        raise wrong(f"`stop` has {len(texts):,} texts, and at most {_MOST_STOPS} are taken", "stop")
    if not all(0 < len(text) <= _LONGEST_STOP for text in texts):
        raise wrong(f"a text of `stop` is empty or has more than {_LONGEST_STOP} characters", "stop")
    return tuple(texts)


def _include_usage(options: Any, *, stream: bool) -> bool:
    if options is None:
        return False
    if not isinstance(options, dict):
        raise wrong("`stream_options` is no object", "stream_options", "invalid_type")
    if not stream:
        raise wrong("`stream_options` is only for streams", "stream_options")
    for name in sorted(options.keys() - {"include_usage", "include_obfuscation"}):
        raise wrong(f"`stream_options.{_short(name)}` is no parameter of this server", "stream_options")
    wanted = options.get("include_usage")
    name = "stream_options.include_usage"
    return _flag({} if wanted is None else {name: wanted}, name)


def _conversation_id(fields: dict[str, Any]) -> str | None:
    name = fields.get("conversation_id")
    if name is None:
        return None
    if not isinstance(name, str):
        raise wrong("`conversation_id` is no text", "conversation_id", "invalid_type")
    return check_conversation_id(name)


def _flag(fields: dict[str, Any], name: str) -> bool:
    value = fields.get(name, False)
    if not isinstance(value, bool):
        raise wrong(f"`{name}` is neither true nor false", name, "invalid_type")
    return value


def _number(fields: dict[str, Any], name: str, usual: float) -> float:
    value = fields.get(name, usual)
    if not _is_number(value):
        raise wrong(f"`{name}` is no number", name, "invalid_type")
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    return number


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _short(name: str) -> str:
    return name if len(name) <= 40 else f"{name[:37]}..."


def model_mismatch(asked: str, served: str) -> Refusal:
    """Another model was asked for than the one that is here."""
    return Refusal(
        404, f"there is no model `{_short(asked)}` here, only `{served}`", code="model_not_found", param="model"
    )
