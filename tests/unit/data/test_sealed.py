"""Sealed files, and digests of what lies beside them."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyllm.data.sealed import file_facts, folder_facts, mismatch, mismatches, read_sealed, write_sealed
from pyllm.errors import InputError
from pyllm.provenance import sha256_hex

RECORD = {
    "key": {"rate": 2e-05, "name": "한국어 é", "none": None},
    "files": {"a": {"bytes": 3}},
    "steps": [1, 1.5, True],
}
TEXT = st.text(st.characters(codec="utf-8"), max_size=5)
NUMBERS = st.integers(-(2**70), 2**70) | st.floats(allow_nan=False, allow_infinity=False)
JSON = st.recursive(
    st.none() | st.booleans() | NUMBERS | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=8,
)


@given(value=st.dictionaries(TEXT.filter(lambda key: key != "sealed"), JSON))
def test_what_is_sealed_comes_back(tmp_path_factory: pytest.TempPathFactory, value: dict[str, Any]) -> None:
    path = tmp_path_factory.getbasetemp() / "sealed.json"
    write_sealed(path, value)
    assert read_sealed(path) == value


def test_every_bit_of_a_sealed_file_counts(tmp_path: Path) -> None:
    path = tmp_path / "run.json"
    write_sealed(path, RECORD)
    whole = path.read_bytes()
    for place in range(len(whole)):
        for bit in range(8):
            changed = bytearray(whole)
            changed[place] ^= 1 << bit
            path.write_bytes(changed)
            with pytest.raises(InputError, match=r"run\.json was changed after it was written"):
                read_sealed(path)


@pytest.mark.parametrize(
    "changed",
    [
        b"",
        b"{}",
        b"[]",
        b'{"sealed": null}',
        b"\xed\xa0\x80",
        b'{"a": "\xed\xa0\x80", "sealed": "x"}',
        b'{"a": 1e999, "sealed": "x"}',
        b'{"a": NaN, "sealed": "x"}',
        b"[" * 100_000,
        b"\x00\x00",
    ],
)
def test_anything_else_in_its_place_is_refused(tmp_path: Path, changed: bytes) -> None:
    path = tmp_path / "run.json"
    path.write_bytes(changed)
    with pytest.raises(InputError, match=r"run\.json was changed"):
        read_sealed(path)


def test_the_same_values_in_another_spelling_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "run.json"
    write_sealed(path, RECORD)
    value = json.loads(path.read_bytes())
    for other in (json.dumps(value), json.dumps(value, indent=2), path.read_text() + "\n", "\ufeff" + path.read_text()):
        path.write_text(other, encoding="utf-8")
        with pytest.raises(InputError, match="changed"):
            read_sealed(path)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"run\.json cannot be read: no such file"):
        read_sealed(tmp_path / "run.json")
    with pytest.raises(InputError, match="cannot be read: is a directory"):
        file_facts(tmp_path)


def test_facts_of_a_folder_are_those_of_its_files(tmp_path: Path) -> None:
    (tmp_path / "deep" / "er").mkdir(parents=True)
    (tmp_path / "a").write_bytes(b"abc")
    (tmp_path / "deep" / "er" / "b").write_bytes(b"")
    (tmp_path / "manifest.json").write_bytes(b"left out")
    (tmp_path / "deep" / "manifest.json").write_bytes(b"kept")
    facts = folder_facts(tmp_path, leave_out=["manifest.json"])
    assert list(facts) == ["a", "deep/er/b", "deep/manifest.json"]
    assert facts["a"] == {"bytes": 3, "sha256": sha256_hex(b"abc")}
    assert facts["deep/er/b"] == {"bytes": 0, "sha256": sha256_hex(b"")}
    assert mismatches(tmp_path, facts) == []


def test_what_does_not_fit_is_named_in_order(tmp_path: Path) -> None:
    for name in ("a", "b", "c", "d"):
        (tmp_path / name).write_bytes(b"1234")
    facts = folder_facts(tmp_path)
    (tmp_path / "a").unlink()
    (tmp_path / "b").write_bytes(b"12345")
    (tmp_path / "d").write_bytes(b"1235")
    assert mismatches(tmp_path, facts) == [
        f"{tmp_path}/a is missing",
        f"{tmp_path}/b has 5 bytes and had 4",
        f"{tmp_path}/d was changed: its SHA-256 is not the recorded one",
    ]


def test_a_file_of_another_size_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes(b"1234")
    asked: list[Path] = []

    def facts_of(asked_for: Path) -> dict[str, Any]:
        asked.append(asked_for)
        return file_facts(asked_for)

    assert mismatch(path, {"bytes": 5, "sha256": sha256_hex(b"1234")}, facts_of=facts_of) is not None
    assert not asked
    assert mismatch(path, {"bytes": 4, "sha256": sha256_hex(b"1234")}, facts_of=facts_of) is None
    assert asked == [path]
