"""Sections set as one HTML file that asks no network for anything and runs nothing but its own sorting.

Everything that comes from data is text: the template escapes it, and what is no character that a page may hold becomes
a sign that stands for it. The one thing taken over as it is are the drawings, which are made here.
"""

import base64
import hashlib
import re
from collections.abc import Iterator, Sequence
from importlib.resources import files
from itertools import groupby
from typing import Any

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from pyllm.report.blocks import Block, Plot, Section

_UNFIT = re.compile(
    "[\\x00-\\x08\\x0b-\\x1f\\x7f-\\x9f\\u061c\\u200e\\u200f\\u202a-\\u202e\\u2066-\\u2069\\ud800-\\udfff\\ufdd0-\\ufdef\\ufffe\\uffff]"
)
"""Control characters, signs that turn the text around them, lone surrogates, and what is no character."""
_CONTROL_PICTURES = 0x2400


def page_of(title: str, sections: Sequence[Section], *, made_with: str) -> str:
    """The page.

    Args:
        title: Of the page.
        sections: What stands on it.
        made_with: What made it, for its last line.
    """
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters["clean"] = clean
    script, style = _part("page.js"), _part("page.css")
    policy = (
        f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src '{_digest(script)}';"
        " base-uri 'none'; form-action 'none'"
    )
    return environment.from_string(_part("page.html")).render(
        policy=policy,
        title=title,
        style=Markup(style),
        script=Markup(script),
        sections=[{"name": each.name, "title": each.title, "groups": list(_groups(each.blocks))} for each in sections],
        made_with=made_with,
    )


def _groups(blocks: Sequence[Block]) -> Iterator[dict[str, Any]]:
    """Blocks as the template sets them: neighbouring plots together."""
    for are_plots, run in groupby(blocks, key=lambda block: isinstance(block, Plot)):
        if are_plots:
            plots = [(each.title, Markup(each.svg), each.note) for each in run if isinstance(each, Plot)]
            yield {"block": "plots", "plots": plots}
        else:
            for block in run:
                yield {"block": block.block, "it": block}


def clean(text: object) -> str:
    r"""A text that a page can hold and show: no control characters, lone surrogates or signs that turn text around.

    Example:
        >>> clean("a\x1b[31m")
        'a␛[31m'
    """
    return _UNFIT.sub(lambda found: _shown(ord(found[0])), str(text))


def _shown(code: int) -> str:
    return chr(_CONTROL_PICTURES + code) if code < 0x20 else "\ufffd"


def _part(name: str) -> str:
    return files(__package__ or "pyllm.report").joinpath(name).read_text(encoding="utf-8")


def _digest(text: str) -> str:
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"
