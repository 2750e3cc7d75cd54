"""Secrets from the environment, and their masking."""

from __future__ import annotations

from flowmason.secrets import EnvironmentSecrets, Masker, variable


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
