"""Who stays in a full cache: one file a policy, each with the one method of `pyllm.stream.memory.Policy`."""

import importlib

from pyllm.errors import SettingError
from pyllm.stream.memory import Policy
from pyllm.stream.policies.full import Full
from pyllm.stream.policies.h2o import H2O
from pyllm.stream.policies.interval import Interval
from pyllm.stream.policies.keydiff import KeyDiff
from pyllm.stream.policies.random import Random
from pyllm.stream.policies.sirllm import SirLLM
from pyllm.stream.policies.snapkv import SnapKV
from pyllm.stream.policies.streaming import Streaming
from pyllm.stream.policies.tova import TOVA
from pyllm.stream.policies.window import Window
from pyllm.stream.settings import StreamSettings

POLICY_NAMES = (
    "full",
    "window",
    "streaming",
    "random",
    "interval",
    "interval-literal",
    "sirllm",
    "h2o",
    "tova",
    "keydiff",
    "snapkv",
)
"""The policies that are here."""

SCORED_POLICIES = ("random", "sirllm", "h2o", "tova", "keydiff", "snapkv")
"""Those of them that give every token a score, which spans and ties work on."""


def policy_of(settings: StreamSettings) -> Policy:
    """The policy that the settings name.

    Args:
        settings: `policy` is one of `POLICY_NAMES`, or `module:attribute`: an object with the method `keep`, or a
            class or function that makes one when it is called with no arguments.

    Raises:
        SettingError: There is no such policy.
    """
    simple: dict[str, type[Policy]] = {
        "full": Full,
        "window": Window,
        "interval": Interval,
        "sirllm": SirLLM,
        "h2o": H2O,
        "tova": TOVA,
        "keydiff": KeyDiff,
        "snapkv": SnapKV,
    }
    name = settings.policy
    if name == "random":
        return Random(settings.seed)
    if name == "interval-literal":
        return Interval(literal=True)
    if name == "streaming":
        return Streaming(overflows=settings.reference)
    if name in simple:
        return simple[name]()
    if ":" in name:
        return _own_policy(name)
    raise SettingError(
        f"policy `{name}` is unknown", hint=f"use {', '.join(POLICY_NAMES)}, or module:attribute of your own"
    )


def _own_policy(name: str) -> Policy:
    module_name, _, attribute = name.partition(":")
    try:
        found = getattr(importlib.import_module(module_name), attribute)
    except (ImportError, AttributeError, ValueError) as error:
        raise SettingError(f"policy `{name}` cannot be imported: {error}") from error
    if isinstance(found, type) or not hasattr(found, "keep"):
        if not callable(found):
            raise SettingError(f"policy `{name}` has no method `keep`")
        try:
            found = found()
        except TypeError as error:
            raise SettingError(f"policy `{name}` cannot be made without arguments: {error}") from error
    if not isinstance(found, Policy):
        raise SettingError(f"policy `{name}` has no method `keep`")
    return found
