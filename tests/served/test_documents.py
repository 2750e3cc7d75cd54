"""What a file in configs/llm may say, and how a wrong one is refused."""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from flowmason.errors import Fault, RefusedError
from flowmason.served import Autoscaling, Engine, Gpus, SourceKind, load_served, parse_served, read_folder

CONFIGS = Path(__file__).parents[2] / "configs" / "llm"
LEAST: dict[str, Any] = {"name": "m", "source": {"path": "m.gguf"}, "engine": "llamacpp"}


def _faults(value: Any) -> list[str]:
    faults: list[Fault] = []
    assert parse_served(value, faults) is None
    return [str(fault) for fault in faults]


def test_the_files_of_this_repository_are_read() -> None:
    models, faults = read_folder(CONFIGS)
    assert not faults
    assert set(models) >= {"smollm2", "qwen3-8b"}
    large = models["qwen3-8b"]
    assert large.gpus == Gpus(2, 1, "A10G") and large.autoscaling == Autoscaling(1, 4, 16)
    assert large.cpu is not None
    assert (large.cpu.engine, large.cpu.source.kind, large.cpu.name) == (
        Engine.LLAMACPP,
        SourceKind.PACKAGE,
        "qwen3-8b",
    )
    assert large.cpu.defaults == large.defaults and large.cpu.engine_args == {}


def test_the_stand_in_for_cpus_takes_over_what_it_does_not_say() -> None:
    faults: list[Fault] = []
    given_ = {"engine": "vllm", "source": {"hub": "a/b"}, "engine_args": {"max_model_len": 64}, "gpus": {}, "cpu": {}}
    document = {**LEAST, **given_}
    model = parse_served(document, faults)
    assert model is not None and model.cpu is not None, faults
    assert (model.cpu.source, model.cpu.engine_args, model.cpu.gpus) == (model.source, {"max_model_len": 64}, None)


def test_relative_paths_are_from_the_files_folder(tmp_path: Path) -> None:
    (tmp_path / "m.yaml").write_text(yaml.safe_dump({**LEAST, "adapters": {"a": {"path": "../a.gguf"}}}))
    model = load_served(tmp_path / "m.yaml")
    assert model.source.place == str(tmp_path / "m.gguf")
    assert model.adapter("a").source.place == str(tmp_path.parent / "a.gguf")


def test_every_fault_is_told_at_once_with_its_place(tmp_path: Path) -> None:
    file = tmp_path / "m.yaml"
    file.write_text(
        "name: not a name\nsorce: {path: x}\nengine: vlm\ngpus: {tensor_paralel: 2}\nreplicas: 0\ncpus: -1\n"
    )
    with pytest.raises(RefusedError) as caught:
        load_served(file)
    text = "\n".join(map(str, caught.value.faults))
    assert f"{file}:1:1: $.name: is at most 63" in text
    assert f"{file}:2:1: $.sorce: unknown key" in text and "did you mean 'source'?" in text
    assert "source is missing" in text
    assert f"{file}:3:1: $.engine: there is no engine 'vlm'" in text and "did you mean 'vllm'?" in text
    assert "did you mean 'tensor_parallel'?" in text
    assert f"{file}:5:1: $.replicas: must be a whole number from 1" in text
    assert f"{file}:6:1: $.cpus: must be a number from 0" in text


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"source": {}}, "needs exactly one of path, url, package, hub"),
        ({"source": {"path": "a", "hub": "a/b"}}, "needs exactly one"),
        ({"source": {"url": "a/b"}}, "is no URL"),
        ({"source": {"path": "s3://a/b"}}, "say it with url"),
        ({"source": {"hub": "b"}}, "no repository such as org/name"),
        ({"source": {"package": "--index-url=x"}}, "no name of a Python distribution"),
        ({"source": {"path": "a", "file": "../b"}}, "a path inside the source"),
        ({"source": {"path": "a", "revision": "1"}}, "only a hub or a package has revisions"),
        ({"source": {"path": "a", "sha256": "12"}}, "64 hexadecimal digits"),
        ({"engine_args": {"thread": 1}}, "did you mean 'threads'?"),
        ({"engine_args": {"threads": 0}}, "must be a whole number from 1"),
        ({"engine": "vllm", "engine_args": {"tensor_parallel_size": 2}}, "this is said by gpus.tensor_parallel"),
        ({"engine": "vllm", "engine_args": {"max-model-len": 2}}, "written with underscores"),
        ({"replicas": 2, "autoscaling": {}}, "either replicas or autoscaling"),
        ({"autoscaling": {"min": 3, "max": 2}}, "is more than max, 2"),
        ({"cpu": {}}, "leave gpus or cpu out"),
        ({"gpus": {}, "cpu": {"engine": "vllm", "name": "x"}}, "unknown key 'name'"),
        ({"adapters": {"a/b": {"path": "x"}}}, "'a/b' is no name of an adapter"),
        ({"adapters": {"a": {}}}, "$.adapters.a: needs exactly one of"),
        ({"defaults": {"temperature": "hot"}}, "must be a number from 0 to 10"),
        ({"name": "a/b"}, "is at most 63 letters"),
        ({"replicas": True}, "must be a whole number"),
    ],
)
def test_what_is_refused(change: dict[str, Any], reason: str) -> None:
    assert any(reason in fault for fault in _faults({**LEAST, **change})), _faults({**LEAST, **change})


def test_two_files_may_not_declare_one_model(tmp_path: Path) -> None:
    for name in ("a.yaml", "b.yaml"):
        (tmp_path / name).write_text(yaml.safe_dump(LEAST))
    models, faults = read_folder(tmp_path)
    assert list(models) == ["m"]
    assert [str(fault) for fault in faults] == [
        f"{tmp_path}/b.yaml: $.name: {tmp_path}/a.yaml declares a model 'm' too"
    ]


_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text("ab/.:- \0", max_size=6),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["path", "hub", "min", "max", "file", "a"]), inner, max_size=3)
    ),
    max_leaves=6,
)
_KEYS = ["name", "source", "engine", "engine_args", "gpus", "cpus", "replicas", "autoscaling", "adapters", "cpu", "x"]


@given(st.dictionaries(st.sampled_from(_KEYS), _json))
def test_any_document_is_read_or_refused_with_a_reason(change: dict[str, Any]) -> None:
    faults: list[Fault] = []
    model = parse_served({**LEAST, **change}, faults)
    assert (model is None) == bool(faults)
    assert all(fault.reason and fault.pointer.startswith("$") for fault in faults)


def test_a_price_is_read_as_text_or_number_and_goes_for_the_stand_in_that_says_none() -> None:
    faults: list[Fault] = []
    price = {"input": "0.15", "output": 0.6, "cached": "0.075"}
    model = parse_served({**LEAST, "gpus": {}, "price": price, "cpu": {"cpus": 2}}, faults)
    assert model is not None and model.price is not None and model.cpu is not None, faults
    assert (model.price.input, model.price.output, model.price.cached) == (
        Decimal("0.15"),
        Decimal("0.6"),
        Decimal("0.075"),
    )
    assert model.price.version == "served 0.15/0.6/0.075" and model.cpu.price == model.price
    own = parse_served({**LEAST, "gpus": {}, "price": price, "cpu": {"price": {"input": 0, "output": 1}}}, faults)
    assert own is not None and own.cpu is not None and own.cpu.price is not None
    assert own.cpu.price.version == "served 0/1"


def test_every_fault_of_a_price_is_told_at_once() -> None:
    price = {"input": "-1", "outptu": "2", "cached": True}
    told = _faults({**LEAST, "price": price, "replicas": 0})
    assert len(told) == 5, told
    assert any("$.price.input" in each and "from 0 to 1000000" in each for each in told)
    assert any("unknown key 'outptu'" in each and "output" in each for each in told)
    assert any("output is missing" in each for each in told) and any("$.price.cached" in each for each in told)
    for wrong in ("NaN", "Infinity", "1e999999", "a lot", None, [1]):
        assert len(_faults({**LEAST, "price": {"input": wrong, "output": "1"}})) == 1, wrong
    assert _faults({**LEAST, "price": "0.15"}) and _faults({**LEAST, "price": {}})


@pytest.mark.parametrize(
    ("change", "context"),
    [
        ({}, 8192),
        ({"engine_args": {"context": 512}}, 512),
        ({"engine": "vllm", "engine_args": {"max_model_len": 2048}}, 2048),
        ({"engine": "vllm", "engine_args": {"max_model_len": "auto"}}, None),
        ({"engine": "vllm"}, None),
    ],
)
def test_how_much_a_model_takes_at_once_is_known_where_its_document_says_it(
    change: dict[str, Any], context: int | None
) -> None:
    model = parse_served({**LEAST, **change}, [])
    assert model is not None and model.context == context
