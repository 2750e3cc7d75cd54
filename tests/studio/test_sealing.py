"""What is sealed opens with the same key and the same context, and in no other way."""

from __future__ import annotations

import os
import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowmason.errors import EngineUnavailableError, UsageError
from flowmason.studio import sealing
from flowmason.studio.sealing import Sealer, open_sealer

OLD, NEW = bytes(range(32)), bytes(range(32, 64))


@given(st.binary(max_size=300), st.lists(st.text(max_size=10), max_size=4))
def test_what_is_sealed_opens_in_its_context_alone(content: bytes, context: list[str]) -> None:
    sealed = Sealer([OLD]).seal(content, context)
    assert Sealer([OLD]).open(sealed, context) == content
    with pytest.raises(UsageError, match="does not open"):
        Sealer([OLD]).open(sealed, [*context, ""])


@given(st.data())
def test_a_changed_byte_is_noticed(data: st.DataObject) -> None:
    sealed = bytearray(Sealer([OLD]).seal(b"content", ["org", "name"]))
    place = data.draw(st.integers(0, len(sealed) - 1))
    sealed[place] ^= data.draw(st.integers(1, 255))
    with pytest.raises(UsageError):
        Sealer([OLD]).open(bytes(sealed), ["org", "name"])


def test_a_master_key_is_exchanged_without_touching_the_content() -> None:
    sealed = Sealer([OLD]).seal(b"content", ["a"])
    moved = Sealer([NEW, OLD]).rewrap(sealed, ["a"])
    assert sealing.key_of(moved) == sealing.key_id(NEW)
    assert Sealer([NEW]).open(moved, ["a"]) == b"content"
    with pytest.raises(UsageError, match="is not here"):
        Sealer([NEW]).open(sealed, ["a"])
    with pytest.raises(UsageError, match="does not open"):
        Sealer([NEW, OLD]).rewrap(sealed, ["b"])


def test_the_same_content_is_never_sealed_to_the_same_bytes() -> None:
    sealer = Sealer([OLD])
    assert sealer.seal(b"x", []) != sealer.seal(b"x", [])


def test_the_key_file_is_made_once_for_its_owner_alone(tmp_path: Path) -> None:
    environ = {"FLOWMASON_HOME": str(tmp_path / "home")}
    with ThreadPoolExecutor(8) as pool:
        made = {each.current for each in pool.map(lambda _: open_sealer(environ), range(16))}
    assert len(made) == 1
    path = tmp_path / "home" / sealing.FILE
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert os.listdir(path.parent) == [sealing.FILE]
    path.chmod(0o640)
    with pytest.raises(EngineUnavailableError, match="can be read by others"):
        open_sealer(environ)


def test_keys_of_the_environment_come_first_and_are_never_repeated_in_errors() -> None:
    one, two = sealing.new_key(), sealing.new_key()
    sealed = open_sealer({sealing.VARIABLE: two}).seal(b"x", [])
    both = open_sealer({sealing.VARIABLE: f"{one}, {two}"})
    assert both.open(sealed, []) == b"x"
    assert sealing.key_of(both.seal(b"y", [])) != sealing.key_of(sealed)
    with pytest.raises(UsageError, match="no master key") as caught:
        open_sealer({sealing.VARIABLE: one[:-4]})
    assert one[:-4] not in str(caught.value)
