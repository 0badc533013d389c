"""One spelling for equal values, and steps that say who did the work."""

import hashlib

import pytest

from pyllm.provenance import canonical_json, package_version, sha256_hex, step


def test_equal_values_have_one_spelling() -> None:
    assert canonical_json({"b": [1, 2.5, None], "a": {"é": True}}) == '{"a":{"é":true},"b":[1,2.5,null]}'
    assert canonical_json({"x": 1, "y": 2}) == canonical_json({"y": 2, "x": 1})
    with pytest.raises(ValueError, match="not JSON compliant"):
        canonical_json(float("nan"))


def test_digests_of_text_are_of_its_utf8_bytes() -> None:
    assert sha256_hex("é") == sha256_hex("é".encode()) == hashlib.sha256(b"\xc3\xa9").hexdigest()


def test_a_step_names_its_command_and_the_version() -> None:
    made = step("score", seed=3, anchors=("a", "b"))
    assert made == {"command": "score", "version": package_version(), "seed": 3, "anchors": ["a", "b"]}
    assert package_version()[0].isdigit()
    assert step("score", version="0")["version"] == package_version()
