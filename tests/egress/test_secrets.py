"""Secrets from the environment, and their masking."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from flowmason.secrets import EnvironmentSecrets, Masker, StreamMasker, variable


def test_secrets_are_read_from_prefixed_variables_only() -> None:
    secrets = EnvironmentSecrets({"FLOWMASON_SECRET_API_KEY": "s3cret", "API_KEY": "no", "FLOWMASON_SECRET_EMPTY": ""})
    assert secrets.get("api-key") == secrets.get("API_KEY") == "s3cret"
    assert secrets.get("empty") is None
    assert secrets.get("other") is None
    assert variable("db.pass-word") == "FLOWMASON_SECRET_DB_PASS_WORD"


def test_known_secrets_are_masked_everywhere() -> None:
    masker = Masker(["s3cret", "s3cret-and-longer", "line one\nline two"])
    value = {"a s3cret": ["s3cret-and-longer!", ("x", 1, None)], "b": b"\xffs3cret", "c": "…line two…"}
    assert masker.mask(value) == {"a ***": ["***!", ("x", 1, None)], "b": b"\xff***", "c": "…***…"}
    assert value["b"] == b"\xffs3cret"


def test_what_is_too_short_to_hide_is_left_alone() -> None:
    masker = Masker(["", "a", "abc"])
    assert masker.empty
    assert masker.mask("abc a") == "abc a"


def test_a_secret_that_comes_in_pieces_is_masked_whole() -> None:
    stream = StreamMasker(Masker(["s3cret", "s3cret-and-longer"]))
    shown = [stream.feed(piece) for piece in ("the key is s3", "cr", "et-and", "-longer, and s3cre", "am")]
    assert shown == ["the key is ", "", "", "***, and ", "s3cream"]
    assert [stream.feed("s3cret"), stream.end(), stream.end()] == ["", "***", ""]


def test_without_secrets_nothing_waits() -> None:
    assert StreamMasker(Masker()).feed("as it comes") == "as it comes"


_SECRETS = ["abab", "ababba", "bbaaab", "cabba"]


@given(st.lists(st.text("abc", max_size=7), max_size=12))
def test_however_a_text_is_cut_no_secret_is_shown(pieces: list[str]) -> None:
    masker = Masker(_SECRETS)
    stream = StreamMasker(masker)
    shown = "".join([*(stream.feed(piece) for piece in pieces), stream.end()])
    assert not any(secret in shown for secret in _SECRETS)
    one = StreamMasker(masker)
    whole = one.feed("".join(pieces)) + one.end()
    assert ("***" in shown) == ("***" in whole)
    if "***" not in whole:
        assert shown == "".join(pieces)
