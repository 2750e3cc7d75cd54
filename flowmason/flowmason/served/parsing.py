"""Plain values of a document to a `ServedModel`, with every fault at once."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import PurePosixPath
from typing import Any

from flowmason.errors import Fault, did_you_mean
from flowmason.price import DEAREST, Price, amount
from flowmason.served.model import (
    Adapter,
    Autoscaling,
    Defaults,
    Engine,
    Gpus,
    ServedModel,
    Source,
    SourceKind,
)

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_DISTRIBUTION = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?")
_HUB = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
_KEYS = (
    "name", "description", "source", "engine", "engine_args", "gpus", "cpus", "replicas", "autoscaling", "max_ongoing",
    "defaults", "adapters", "price", "cpu",
)  # fmt: skip
_CPU_KEYS = ("source", "engine", "engine_args", "cpus", "replicas", "autoscaling", "max_ongoing", "adapters", "price")
_SOURCE_KEYS = (*(str(each) for each in SourceKind), "file", "revision", "sha256")
_LLAMACPP = ("threads", "context", "parallel", "batch", "gpu_layers")
_BY_US = {
    "model": "source",
    "served_model_name": "name",
    "tensor_parallel_size": "gpus.tensor_parallel",
    "pipeline_parallel_size": "gpus.pipeline_parallel",
    "distributed_executor_backend": "gpus",
    "enable_lora": "adapters",
    "max_num_seqs": "max_ongoing",
}
"""vLLM's engine arguments that other keys of ours say."""
_PRICE_KEYS = ("input", "output", "cached")
_MOST = 10_000


def parse_served(value: Any, faults: list[Fault]) -> ServedModel | None:
    """The model that a document describes. Adds every fault to `faults`; None where there is one.

    Paths are left as they are written.
    """
    reader = _Reader(faults)
    before = len(faults)
    if not isinstance(value, Mapping):
        reader.wrong("$", "a served model is an object with at least name, source and engine")
        return None
    reader.keys("$", value, _KEYS)
    common = _served(reader, "$", value, None)
    name = reader.name("$", value, "name")
    description = reader.text("$", value, "description") or ""
    gpus = _gpus(reader, value.get("gpus"))
    defaults = _defaults(reader, value.get("defaults"))
    cpu = None
    if value.get("cpu") is not None:
        cpu = _cpu(reader, value, name or "x", common, description, defaults)
    if gpus is None and cpu is not None:
        reader.wrong("$.cpu", "it stands in where GPUs are lacking, but the model asks for none: leave gpus or cpu out")
    if len(faults) > before:
        return None
    assert name is not None
    return ServedModel(name=name, description=description, gpus=gpus, defaults=defaults, cpu=cpu, **common)


def _cpu(
    reader: _Reader, value: Mapping[str, Any], name: str, common: Mapping[str, Any], about: str, defaults: Defaults
) -> ServedModel | None:
    given = reader.object("$", value, "cpu")
    if given is None:
        return None
    reader.keys("$.cpu", given, _CPU_KEYS)
    before = len(reader.faults)
    own = _served(reader, "$.cpu", given, common)
    if len(reader.faults) > before:
        return None
    return ServedModel(name=name, description=about, defaults=defaults, **own)


def _served(reader: _Reader, at: str, value: Mapping[str, Any], other: Mapping[str, Any] | None) -> dict[str, Any]:
    """The fields that a model and its stand-in for CPUs have both; `other` gives what the stand-in does not say."""
    found: dict[str, Any] = {}
    if other is None or "source" in value:
        found["source"] = _source(reader, f"{at}.source", value.get("source"))
    else:
        found["source"] = other.get("source")
    found["engine"] = _engine(reader, at, value, other)
    if "engine_args" in value or other is None or other.get("engine") != found["engine"]:
        found["engine_args"] = _engine_args(reader, f"{at}.engine_args", value.get("engine_args"), found["engine"])
    else:
        found["engine_args"] = other["engine_args"]
    cpus = reader.number(at, value, "cpus", 0, _MOST)
    found["cpus"] = 1.0 if cpus is None else float(cpus)
    found["replicas"] = reader.whole(at, value, "replicas", 1, _MOST) or 1
    found["autoscaling"] = _autoscaling(reader, at, value)
    if "replicas" in value and "autoscaling" in value:
        reader.wrong(f"{at}.autoscaling", "a model has either replicas or autoscaling")
    found["max_ongoing"] = reader.whole(at, value, "max_ongoing", 1, _MOST) or 16
    found["adapters"] = _adapters(reader, at, value)
    found["price"] = _price(reader, at, value) if other is None or "price" in value else other["price"]
    return found


def _engine(reader: _Reader, at: str, value: Mapping[str, Any], other: Mapping[str, Any] | None) -> Engine | None:
    if "engine" not in value and other is not None:
        engine: Engine | None = other.get("engine")
        return engine
    given = value.get("engine")
    if given not in tuple(Engine):
        known = " or ".join(Engine)
        reason = f"there is no engine {given!r}; it is {known}" if "engine" in value else f"engine is missing: {known}"
        near = did_you_mean(str(given), [str(each) for each in Engine]) if isinstance(given, str) else None
        reader.wrong(f"{at}.engine" if "engine" in value else at, reason, near)
        return None
    return Engine(str(given))


def _engine_args(reader: _Reader, at: str, given: Any, engine: Engine | None) -> dict[str, Any]:
    if given is None:
        return {}
    if not isinstance(given, Mapping):
        reader.wrong(at, "must be an object")
        return {}
    if engine is Engine.LLAMACPP:
        reader.keys(at, given, _LLAMACPP)
        for key in _LLAMACPP:
            reader.whole(at, given, key, 0 if key == "gpu_layers" else 1, 10_000_000)
    if engine is Engine.VLLM:
        for key in given:
            plain = str(key).replace("-", "_")
            if plain in _BY_US:
                reader.wrong(f"{at}.{key}", f"this is said by {_BY_US[plain]}")
            elif plain != key:
                reader.wrong(f"{at}.{key}", "engine arguments are written with underscores", plain)
    return dict(given)


def _source(reader: _Reader, at: str, given: Any) -> Source | None:
    kinds = ", ".join(SourceKind)
    if given is None:
        reader.wrong(at.rpartition(".")[0], f"source is missing: an object with one of {kinds}")
        return None
    if not isinstance(given, Mapping):
        reader.wrong(at, f"must be an object with one of {kinds}")
        return None
    before = len(reader.faults)
    reader.keys(at, given, _SOURCE_KEYS)
    named = [kind for kind in SourceKind if kind in given]
    if len(named) != 1:
        if len(reader.faults) == before or len(named) > 1:
            reader.wrong(at, f"needs exactly one of {kinds}")
        return None
    kind = named[0]
    place = reader.text(at, given, kind)
    if place is not None:
        _check_place(reader, f"{at}.{kind}", kind, place)
    file = reader.text(at, given, "file")
    if file is not None and (PurePosixPath(file).is_absolute() or ".." in PurePosixPath(file).parts):
        reader.wrong(f"{at}.file", "is a path inside the source: no leading '/' and no '..'")
    revision = reader.text(at, given, "revision")
    if revision is not None and kind not in (SourceKind.HUB, SourceKind.PACKAGE):
        reader.wrong(f"{at}.revision", "only a hub or a package has revisions")
    digest = reader.text(at, given, "sha256")
    if digest is not None and not _SHA256.fullmatch(digest):
        reader.wrong(f"{at}.sha256", "is 64 hexadecimal digits in lower case")
    if len(reader.faults) > before or place is None:
        return None
    return Source(kind, place, file, revision, digest)


def _check_place(reader: _Reader, at: str, kind: SourceKind, place: str) -> None:
    if kind is SourceKind.URL and "://" not in place:
        reader.wrong(at, "is no URL such as s3://bucket/model; a path is said with path")
    if kind is SourceKind.PATH and "://" in place:
        reader.wrong(at, "is a URL; say it with url")
    if kind is SourceKind.PACKAGE and not _DISTRIBUTION.fullmatch(place):
        reader.wrong(at, "is no name of a Python distribution; its version is said with revision")
    if kind is SourceKind.HUB and not _HUB.fullmatch(place):
        reader.wrong(at, "is no repository such as org/name; its revision is said with revision")


def _gpus(reader: _Reader, given: Any) -> Gpus | None:
    if given is None:
        return None
    if not isinstance(given, Mapping):
        reader.wrong("$.gpus", "must be an object")
        return None
    reader.keys("$.gpus", given, Gpus.__struct_fields__)
    return Gpus(
        reader.whole("$.gpus", given, "tensor_parallel", 1, 1024) or 1,
        reader.whole("$.gpus", given, "pipeline_parallel", 1, 1024) or 1,
        reader.text("$.gpus", given, "accelerator_type"),
    )


def _autoscaling(reader: _Reader, at: str, value: Mapping[str, Any]) -> Autoscaling | None:
    given = reader.object(at, value, "autoscaling")
    if given is None:
        return None
    at = f"{at}.autoscaling"
    reader.keys(at, given, Autoscaling.__struct_fields__)
    least = reader.whole(at, given, "min", 0, _MOST)
    most = reader.whole(at, given, "max", 1, _MOST)
    target = reader.whole(at, given, "target_ongoing", 1, _MOST)
    least = 1 if least is None else least
    most = max(least, 1) if most is None else most
    if least > most:
        reader.wrong(f"{at}.min", f"is more than max, {most}")
    return Autoscaling(least, most, target or 8)


def _defaults(reader: _Reader, given: Any) -> Defaults:
    if given is None:
        return Defaults()
    if not isinstance(given, Mapping):
        reader.wrong("$.defaults", "must be an object")
        return Defaults()
    reader.keys("$.defaults", given, Defaults.__struct_fields__)
    temperature = reader.number("$.defaults", given, "temperature", 0, 10)
    top_p = reader.number("$.defaults", given, "top_p", 0, 1)
    most = reader.whole("$.defaults", given, "max_tokens", 1, 10_000_000)
    return Defaults(temperature, top_p, most, reader.text("$.defaults", given, "system_prompt"))


def _price(reader: _Reader, at: str, value: Mapping[str, Any]) -> Price | None:
    given = reader.object(at, value, "price")
    if given is None:
        return None
    at = f"{at}.price"
    reader.keys(at, given, _PRICE_KEYS)
    amounts = {}
    for key in _PRICE_KEYS:
        if key in given:
            amounts[key] = amount(given[key])
            if amounts[key] is None:
                reader.wrong(f"{at}.{key}", f"must be dollars per million tokens, from 0 to {DEAREST}")
        elif key != "cached":
            reader.wrong(at, f"{key} is missing: dollars per million tokens")
    input_, output, cached = (amounts.get(key) for key in _PRICE_KEYS)
    if input_ is None or output is None:
        return None
    # The ledger notes with a call by which price it was counted: a served model's has no table that could be looked up.
    shown = "/".join(f"{each:f}" for each in (input_, output, cached) if each is not None)
    return Price(input_, output, cached, version=f"served {shown}")


def _adapters(reader: _Reader, at: str, value: Mapping[str, Any]) -> tuple[Adapter, ...]:
    given = reader.object(at, value, "adapters")
    found = []
    for name, source in (given or {}).items():
        if not isinstance(name, str) or not _NAME.fullmatch(name):
            reader.wrong(f"{at}.adapters", f"{name!r} is no name of an adapter: letters, digits, '.', '_', '-'")
            continue
        read = _source(reader, f"{at}.adapters.{name}", source)
        if read is not None:
            found.append(Adapter(name, read))
    return tuple(found)


class _Reader:
    """Takes values out of objects, and notes what is wrong with them."""

    def __init__(self, faults: list[Fault]) -> None:
        self.faults = faults

    def wrong(self, at: str, reason: str, nearest: str | None = None) -> None:
        self.faults.append(Fault(reason, at, nearest=nearest))

    def keys(self, at: str, value: Mapping[str, Any], known: tuple[str, ...]) -> None:
        for key in value:
            if key not in known and not str(key).startswith("x-"):
                near = did_you_mean(str(key), known)
                self.wrong(f"{at}.{key}", f"unknown key {key!r}; there are {', '.join(known)}", near)

    def object(self, at: str, value: Mapping[str, Any], key: str) -> Mapping[str, Any] | None:
        given = value.get(key)
        if given is not None and not isinstance(given, Mapping):
            self.wrong(f"{at}.{key}", "must be an object")
            return None
        return given

    def text(self, at: str, value: Mapping[str, Any], key: str) -> str | None:
        given = value.get(key)
        if given is None and key not in value:
            return None
        if not isinstance(given, str) or not given.strip() or "\0" in given:
            self.wrong(f"{at}.{key}", "must be a text that is not empty")
            return None
        return given

    def name(self, at: str, value: Mapping[str, Any], key: str) -> str | None:
        if key not in value:
            self.wrong(at, f"{key} is missing")
            return None
        given = self.text(at, value, key)
        if given is not None and not _NAME.fullmatch(given):
            self.wrong(
                f"{at}.{key}", "is at most 63 letters, digits, '.', '_' and '-', and begins with one of the first"
            )
            return None
        return given

    def whole(self, at: str, value: Mapping[str, Any], key: str, least: int, most: int) -> int | None:
        given = value.get(key)
        if given is None and key not in value:
            return None
        if not isinstance(given, int) or isinstance(given, bool) or not least <= given <= most:
            self.wrong(f"{at}.{key}", f"must be a whole number from {least} to {most}")
            return None
        return given

    def number(self, at: str, value: Mapping[str, Any], key: str, least: float, most: float) -> float | None:
        given = value.get(key)
        if given is None and key not in value:
            return None
        if not isinstance(given, int | float) or isinstance(given, bool) or not least <= given <= most:
            self.wrong(f"{at}.{key}", f"must be a number from {least:g} to {most:g}")
            return None
        return given
