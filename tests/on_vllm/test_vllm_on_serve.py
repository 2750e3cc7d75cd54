"""A model of random weights on vLLM, through Ray Serve's LLM support: on a GPU where there is one, else on CPUs.

Run by `make test-vllm`, or by pytest in any environment with vLLM.
"""

from __future__ import annotations

import asyncio
import http.client
import json
import time
from collections.abc import Iterator
from contextlib import aclosing
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import msgspec
import pytest

from flowmason.errors import Code, ProviderError
from flowmason.model import ModelRequest, learn_of
from flowmason.policy import Placement
from flowmason.providers import ProviderSettings, make_provider
from flowmason.providers.counting import offer_of
from flowmason.served import Adapter, Defaults, Engine, Gpus, ServedModel, Source, SourceKind, fitted, names
from flowmason.studio.identity.permissions import Role
from flowmason.studio.scope import StudioStore

pytestmark = pytest.mark.skipif(find_spec("vllm") is None, reason="vLLM is not installed: make test-vllm")

SCHEMA = {
    "type": "object",
    "properties": {"mood": {"enum": ["good", "bad"]}, "sure": {"type": "boolean"}},
    "required": ["mood", "sure"],
    "additionalProperties": False,
}


class Site:
    """The endpoint, and a key to it."""

    def __init__(self, port: int, key: str) -> None:
        self.port, self.key = port, key

    def ask(self, method: str, path: str, body: Any = None, key: str | None = None) -> tuple[int, Any]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        headers = {"Authorization": f"Bearer {key or self.key}", "Content-Type": "application/json"}
        connection.request(method, names.PREFIX + path, None if body is None else json.dumps(body), headers)
        answer = connection.getresponse()
        return answer.status, json.loads(answer.read())


def accelerator(nodes: list[dict[str, float]]) -> str | None:
    """What GPU Ray found here, as it names it; None where there is none."""
    marks = [name for node in nodes for name in node if name.startswith("accelerator_type:")]
    return marks[0].partition(":")[2] if marks and any(node.get("GPU", 0) >= 1 for node in nodes) else None


def documents(source: Source, adapters: tuple[Adapter, ...], found: str | None) -> tuple[ServedModel, ServedModel]:
    """A model for GPUs with what stands in for them, and which of the two this machine is to serve."""
    arguments = {"max_model_len": 2048, "enforce_eager": True}
    cpu = ServedModel(
        name="tiny",
        source=source,
        engine=Engine.VLLM,
        engine_args={**arguments, "dtype": "float32"},
        max_ongoing=4,
        defaults=Defaults(temperature=0, max_tokens=64),
        adapters=adapters,
    )
    declared = msgspec.structs.replace(
        cpu,
        engine_args={**arguments, "dtype": "float16", "gpu_memory_utilization": 0.3},
        gpus=Gpus(2, 1, "H100") if found is None else Gpus(1, 1, found),
        cpu=cpu,
    )
    return declared, cpu if found is None else declared


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    from flowmason_actors import processes
    from flowmason_cluster import ray_start
    from flowmason_serve_apps.llm import deploy
    from ray import serve
    from studio.kit import ACME, people_in
    from vllm_kit import write_adapter, write_model

    home = tmp_path_factory.mktemp("home")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FLOWMASON_HOME", str(home))
        store = StudioStore.open(f"sqlite:///{home}/flowmason.db")
        keys = people_in(store, ACME, "acme")
        store.close()
        weights = write_model(tmp_path_factory.mktemp("tiny"))
        adapter = write_adapter(tmp_path_factory.mktemp("adapter"))
        source = Source(SourceKind.PATH, str(weights))
        import ray

        ray_start.connect("local", num_cpus=2)
        port = processes.free_port()
        serve.start(http_options={"host": "127.0.0.1", "port": port})
        listed: Any = ray.nodes
        nodes = [node["Resources"] for node in listed()]
        adapters = (Adapter("odd", Source(SourceKind.PATH, str(adapter))),)
        declared, expected = documents(source, adapters, accelerator(nodes))
        model = fitted(declared, nodes)
        assert model is expected
        serve.run(deploy.application(model), name=names.application("tiny"), route_prefix=None)
        serve.run(deploy.gateway({}), name=names.GATEWAY, route_prefix=names.PREFIX)
        yield Site(port, keys[Role.DEVELOPER])
        end: Any = serve.shutdown
        end()
        ray_start.disconnect()


def test_gpus_become_a_placement_group_and_arguments_of_vllm() -> None:
    from flowmason_serve_apps.llm import vllm

    model = ServedModel(
        name="large", source=Source(SourceKind.HUB, "a/b"), engine=Engine.VLLM, cpus=2.0, gpus=Gpus(2, 2, "H100"),
        engine_args={"max_model_len": 4096},
    )  # fmt: skip
    config = vllm.config_of(model, "/weights").get_engine_config()
    assert config.placement_bundles == [{"GPU": 1.0, "CPU": 2.0, "accelerator_type:H100": 0.001}] * 4
    arguments = config.get_initialization_kwargs()
    assert (arguments["tensor_parallel_size"], arguments["pipeline_parallel_size"]) == (2, 2)
    assert (arguments["model"], arguments["distributed_executor_backend"]) == ("/weights", "ray")


def test_it_answers_as_openai_does_and_demands_a_key(site: Site) -> None:
    status, models = site.ask("GET", "/v1/models")
    assert status == 200 and [(each["id"], each["engine"]) for each in models["data"]] == [
        ("tiny", "vllm"), ("tiny/odd", "vllm"),
    ]  # fmt: skip
    body = {"model": "tiny", "messages": [{"role": "user", "content": "the sea"}], "max_tokens": 7, "seed": 1}
    status, answer = site.ask("POST", "/v1/chat/completions", body)
    assert status == 200 and answer["model"] == "tiny", answer
    assert answer["usage"]["completion_tokens"] == 7 and answer["choices"][0]["finish_reason"] == "length"
    status, answer = site.ask("POST", "/v1/completions", {"model": "tiny", "prompt": "the sea", "max_tokens": 3})
    assert status == 200 and answer["object"] == "text_completion" and answer["usage"]["completion_tokens"] == 3
    assert site.ask("POST", "/v1/chat/completions", body, key="fm_live_x")[0] == 401
    status, problem = site.ask("POST", "/v1/chat/completions", {**body, "max_tokens": 100_000})
    assert status == 400 and problem["error"]["message"], problem


def test_a_schema_of_enums_and_booleans_is_kept_by_random_weights(site: Site) -> None:
    format_ = {"type": "json_schema", "json_schema": {"name": "answer", "schema": SCHEMA}}
    body = {"model": "tiny", "messages": [{"role": "user", "content": "yes"}], "response_format": format_}
    status, answer = site.ask("POST", "/v1/chat/completions", {**body, "temperature": 1, "max_tokens": 200})
    assert status == 200, answer
    given = json.loads(answer["choices"][0]["message"]["content"])
    assert given["mood"] in ("good", "bad") and isinstance(given["sure"], bool)


def test_an_adapter_answers_under_its_name(site: Site) -> None:
    texts = {}
    for model in ("tiny", "tiny/odd"):
        body = {"model": model, "messages": [{"role": "user", "content": "the sea"}], "max_tokens": 12}
        status, answer = site.ask("POST", "/v1/chat/completions", body)
        assert status == 200 and answer["model"] == model, answer
        texts[model] = answer["choices"][0]["message"]["content"]
    assert texts["tiny"] != texts["tiny/odd"]
    assert site.ask("POST", "/v1/chat/completions", {**body, "model": "tiny/none"})[0] == 404


async def test_the_provider_streams_and_a_cancelled_call_ends_at_the_engine(site: Site) -> None:
    from flowmason_serve_apps.llm.handles import Handles

    provider = make_provider("models", ProviderSettings(model="tiny"), environ={})
    schema = await provider.generate(ModelRequest(prompt="yes", json_schema=SCHEMA, max_tokens=200))
    assert set(json.loads(schema.content)) == {"mood", "sure"} and schema.usage.output_tokens > 3
    for long in (ModelRequest(prompt="word " * 5000), ModelRequest(prompt="yes", max_tokens=4096)):
        with pytest.raises(ProviderError) as caught:
            await provider.generate(long)
        assert caught.value.failure.code == Code.CONTEXT_EXCEEDED, caught.value
    await learn_of(provider, "tiny")
    known = offer_of(provider, "tiny")
    assert (known.context, known.max_tokens) == (2048, 64)
    handles = Handles()
    before = await handles.counts("tiny")
    begun = asyncio.Event()
    pieces: list[str] = []

    def take(piece: str) -> None:
        pieces.append(piece)
        begun.set()

    call = asyncio.create_task(provider.generate(ModelRequest(prompt="the sea", max_tokens=1900), take))
    await asyncio.wait_for(begun.wait(), 30)
    assert (await handles.counts("tiny")).running == 1
    call.cancel()
    cancelled_at = time.monotonic()
    with pytest.raises(asyncio.CancelledError):
        await call
    while (await handles.counts("tiny")).running:
        assert time.monotonic() - cancelled_at < 2, "the generation goes on"
        await asyncio.sleep(0.05)
    after = await handles.counts("tiny")
    assert 0 < after.output_tokens - before.output_tokens < 1900
    await asyncio.sleep(1)
    assert (await handles.counts("tiny")).output_tokens == after.output_tokens


async def test_a_stage_on_a_node_host_is_answered_by_vllm(site: Site, tmp_path: Path) -> None:
    from flowmason_cluster.executor import RayExecutor
    from ray_kit import Lab, outputs, region, run, stage

    lab = Lab(tmp_path / "project")
    executor = RayExecutor(lab.settings(providers={"default": "models", "models": {"max_tokens": 5}}), address="local")
    await executor.start()
    try:
        plan = lab.plan({**stage("ask", "generator", prompt="the sea"), "llm_settings": {"model": "tiny"}})
        done = outputs(await run(executor, region(plan, placement=Placement.HOST)))
        assert "ask" in done
    finally:
        await executor.close()


async def test_closing_a_stream_frees_the_engine_for_others(site: Site) -> None:
    from flowmason_serve_apps.llm.handles import Handles

    handles = Handles()
    for _ in range(6):  # more than run at once
        body = {"model": "tiny", "prompt": "the sea", "max_tokens": 1900}
        async with aclosing(handles.answer(body)) as answer:
            await anext(answer)
    async with asyncio.timeout(2):
        while (await handles.counts("tiny")).running:
            await asyncio.sleep(0.05)
