"""Secrets from the environment, and their masking."""

from __future__ import annotations

import json
import re
import time
from base64 import b64encode, urlsafe_b64encode
from urllib.parse import quote, quote_plus

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from flowmason.secrets import MASK, EnvironmentSecrets, Masker, StreamMasker, variable


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


@example(["cabab", "ababba", "c"])
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


_PASSWORD = 'pa"ss/wörd+&=\\ 1'


@pytest.mark.parametrize("around", ["", "a", "ab", "abc", "user:"])
@pytest.mark.parametrize(
    "value", ["s3cret-and-longer", _PASSWORD, "-----BEGIN KEY-----\nMIIB\nabcd/+==\n-----END KEY-----\n"]
)
def test_a_secret_is_masked_in_its_common_encodings(value: str, around: str) -> None:
    masker, raw = Masker([value]), f"{around}{value.strip()}{around}".encode()
    quoted = quote(value, safe="")
    for written in (
        json.dumps({"key": value}),
        json.dumps({"key": value}, ensure_ascii=False),
        f"https://example.org/?key={quoted}",
        f"key={quote_plus(value)}",
        re.sub("%..", lambda found: found[0].lower(), quoted),
        raw.hex(),
        raw.hex().upper(),
        b64encode(raw).decode(),
        urlsafe_b64encode(raw).decode(),
    ):
        shown = masker.text(f"it is {written}!")
        assert MASK in shown and value.strip() not in shown
        # What is left of a spelling is too little to make anything of.
        left = shown.removeprefix("it is ").replace(MASK, "")
        assert len(left) <= len(written) - len(value.strip()) + 2, shown
        assert masker.mask({"out": written.encode()})["out"] == masker.text(written).encode()


@given(st.binary(max_size=20), st.text(min_size=8, max_size=30), st.binary(max_size=20))
def test_no_alignment_shows_a_secret_in_base64(before: bytes, secret: str, after: bytes) -> None:
    value = secret.strip()
    if len(value) < 8:
        return
    raw = before + value.encode(errors="replace") + after
    for encode in (b64encode, urlsafe_b64encode):
        shown = Masker([value]).text(encode(raw).decode())
        assert MASK in shown


def test_of_what_is_short_the_encodings_are_left_alone() -> None:
    masker = Masker(["abcdefg"])
    assert masker.text("abcdefg") == MASK
    assert masker.text(b"abcdefg".hex()) == b"abcdefg".hex()


@given(st.integers(0, 2), st.lists(st.integers(1, 9), max_size=40))
def test_an_encoded_secret_that_comes_in_pieces_is_masked(shift: int, cuts: list[int]) -> None:
    secret = "s3cret-and-longer"
    stream = StreamMasker(Masker([secret, "another one of 24 letters"]))
    text = f"say {b64encode(b'x' * shift + secret.encode() + b'yz').decode()} and {secret.encode().hex()}."
    shown = ""
    for cut in cuts:
        shown += stream.feed(text[:cut])
        text = text[cut:]
    shown += stream.feed(text) + stream.end()
    assert shown.count(MASK) == 2 and shown.endswith(f"and {MASK}.")


def test_masking_costs_little_beside_a_log_line() -> None:
    masker = Masker(f"{n:x}-{'k3y' * 10}-{n * 7919:x}" for n in range(50))
    line = {"message": "a line of some two hundred characters " * 5, "fields": {"n": 1, "path": "a/b/c"}}
    begun = time.perf_counter()
    for _ in range(200):
        assert masker.mask(line) == line
    assert (time.perf_counter() - begun) / 200 < 0.005, "some 0.2 ms where nothing else runs"
