"""A history as one HTML file that asks no network for anything.

Numbers are arrays in base64 and texts one list, so that a hundred thousand tokens are a few megabytes; tokens become
elements only near the window. The texts are a model's and anybody's: they stand in a data block in which no tag can
end, reach the page as text alone, and the page's content policy runs no script but its own.
"""

import base64
import hashlib
import html
import json
from importlib.resources import files
from typing import Any

import numpy as np
from numpy import ndarray

from pyllm.stream.view.history import History

_LEAST_TOP_NATS = 4.0
"""Scores from here on may have the strongest colour; more where more than two tokens in a hundred are above."""


def page_of(history: History) -> str:
    """The page of a history."""
    held = int(np.count_nonzero(history.went < 0))
    facts = (
        f"{len(history.ends):,} turns, {len(history.nats):,} tokens, {held:,} held at the end; {history.rules[0].said}"
    )
    script, style = _part("page.js"), _part("page.css")
    policy = (
        f"default-src 'none'; img-src data:; style-src {_digest(style)}; script-src {_digest(script)};"
        " base-uri 'none'; form-action 'none'"
    )
    parts = {
        "policy": html.escape(policy),
        "title": html.escape(_plain(history.name)),
        "facts": html.escape(_plain(facts)),
        "style": style,
        "data": _data(history),
        "script": script,
    }
    page = _part("page.html")
    # One pass over the template: what is put in is never looked at again.
    pieces = [piece.split("}}", 1) for piece in page.split("{{")]
    return pieces[0][0] + "".join(parts[name] + rest for name, rest in pieces[1:])


def _data(history: History) -> str:
    """All that is drawn, as JSON that can stand in an HTML element."""
    top = max(_LEAST_TOP_NATS, float(np.percentile(history.nats, 98)))
    value = {
        "nats": _numbers(history.nats, "<f4"),
        "went": _numbers(history.went, "<i4"),
        "worth": _numbers(history.worth, "<f4"),
        "texts": history.texts,
        "ends": history.ends,
        "labels": history.labels,
        "answers": history.answers,
        "departures": [
            {
                "turn": gone.turn,
                "rule": gone.rule,
                "coming": gone.coming,
                "cut": gone.cut,
                "in_nats": gone.in_nats,
                "forgotten": gone.forgotten,
            }
            for gone in history.gone
        ],
        "rules": [{"policy": rule.policy, "tokens": rule.tokens, "sinks": rule.sinks} for rule in history.rules],
        "rule_of": history.rule_of,
        "pins": history.pins,
        "notes": history.notes,
        "top": top,
    }
    return _inert(value)


def _inert(value: Any) -> str:
    """JSON in ASCII without the signs that begin or end anything in HTML."""
    text = json.dumps(value, ensure_ascii=True, allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _numbers(values: ndarray, kind: str) -> str:
    return base64.b64encode(values.astype(kind).tobytes()).decode()


def _part(name: str) -> str:
    return files(__package__).joinpath(name).read_text(encoding="utf-8")


def _digest(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def _plain(text: str) -> str:
    return "".join(letter if letter.isprintable() else "\ufffd" for letter in text)
