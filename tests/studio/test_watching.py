"""What an operator sees of a Studio: figures for Prometheus, spans, log lines."""

from __future__ import annotations

import asyncio
import gzip
import io
import json
import logging
import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import msgspec
import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from prometheus_client.parser import text_string_to_metric_families

from flowmason.executor import WorkerSettings
from flowmason.journal_sql import open_journal
from flowmason.studio import logs
from flowmason.studio.identity.permissions import Role
from flowmason.studio.roles import ensure_api_role
from flowmason.studio.scope import StudioStore
from flowmason.telemetry import following, otlp
from flowmason_actors.conductor_host import ConductorHost, HostSettings
from flowmason_serve_apps.studio.watching.exposition import METRICS
from studio.conducting import conducting, ended, hello, made, started
from studio.kit import Studio, settings_in, studio_in

ROOT = Path(__file__).parents[2]
MOCK = {"providers": {"default": "mock", "mock": {}}}


class Collector:
    """What an OTLP collector took."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.spans: list[Any] = []


@contextmanager
def collecting() -> Iterator[Collector]:
    """A collector on loopback that takes spans by OTLP over HTTP."""

    held = Collector("")

    class Taking(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            if self.headers.get("content-encoding") == "gzip":
                body = gzip.decompress(body)
            for resource in ExportTraceServiceRequest.FromString(body).resource_spans:
                for scope in resource.scope_spans:
                    held.spans.extend(scope.spans)
            self.send_response(200)
            self.send_header("content-type", "application/x-protobuf")
            self.send_header("content-length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Taking)
    held.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield held
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@pytest.fixture
def collector(monkeypatch: pytest.MonkeyPatch) -> Iterator[Collector]:
    with collecting() as found:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", found.url)
        otlp._exporter.cache_clear()
        yield found
        otlp._exporter.cache_clear()


def _attributes(span: Any) -> dict[str, Any]:
    return {each.key: getattr(each.value, each.value.WhichOneof("value")) for each in span.attributes}


def asking() -> dict[str, Any]:
    """A pipeline whose second stage asks the mock model."""
    say = {
        "id": "say",
        "component_type": "generator",
        "config": {"prompt": "Say hi"},
        "llm_settings": {"provider": "mock"},
    }
    return hello("asking", stages=[*hello()["stages"], say])


def test_request_run_stages_and_model_calls_are_one_trace(tmp_path: Path, collector: Collector) -> None:
    settings = settings_in(tmp_path)
    above = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    with studio_in(tmp_path, settings) as studio, conducting(settings, MOCK):
        pipeline = made(studio, asking())
        answer = studio.client.post(
            f"/api/v1/pipelines/{pipeline['id']}/run",
            json={"input": None},
            headers={**studio.headers(), "traceparent": above},
        )
        run_id = answer.json()["id"]
        row = ended(studio, run_id)
        assert row["status"] == "completed", row["error"]

        async def tell() -> None:
            journal = open_journal(settings.database_url)
            try:
                assert await following.tell(journal, run_id)
                assert await following.tell(journal, run_id)
            finally:
                await journal.close()

        asyncio.run(tell())
    trace = [each for each in collector.spans if each.trace_id.hex() == above.split("-")[1]]
    spans = {each.name: each for each in trace}
    assert len({each.span_id for each in trace}) == len(spans)  # told twice, it is the same spans
    request = spans["POST /api/v1/pipelines/{pipeline_id}/run"]
    run, greet, say = spans["run asking"], spans["stage greet"], spans["stage say"]
    (chat,) = [span for name, span in spans.items() if name.startswith("chat ")]
    assert request.parent_span_id.hex() == above.split("-")[2]
    assert run.parent_span_id == request.span_id
    assert greet.parent_span_id == say.parent_span_id == run.span_id
    assert chat.parent_span_id == say.span_id
    for inside, outside in ((greet, run), (say, run), (chat, say)):
        assert outside.start_time_unix_nano <= inside.start_time_unix_nano
        assert inside.start_time_unix_nano <= inside.end_time_unix_nano <= outside.end_time_unix_nano
    said = _attributes(chat)
    assert said["gen_ai.operation.name"] == "chat"
    assert said["gen_ai.provider.name"] == "mock" and said["flowmason.llm.end"] == "answered"
    assert said["gen_ai.usage.input_tokens"] > 0
    assert said["gen_ai.usage.output_tokens"] > 0
    assert _attributes(run)["flowmason.org.id"] == studio.org


def test_a_conductor_host_tells_of_a_run_that_it_ended(tmp_path: Path, collector: Collector) -> None:
    settings = settings_in(tmp_path)
    with studio_in(tmp_path, settings) as studio:
        run_id = started(studio, made(studio, hello())["id"])["id"]

        async def host() -> None:
            host = ConductorHost(
                msgspec.msgpack.encode(
                    HostSettings(
                        worker=WorkerSettings(values_url=settings.values_url),
                        database_url=settings.database_url,
                        executor="flowmason_serve_apps.studio.dev:local_executor",
                    )
                )
            )
            await host.ready()
            await asyncio.to_thread(ended, studio, run_id)
            await host.drain(2)

        asyncio.run(host())
    run, greet, request = (
        next(each for each in collector.spans if each.name == name)
        for name in ("run hello", "stage greet", "POST /api/v1/pipelines/{pipeline_id}/run")
    )
    assert greet.parent_span_id == run.span_id and run.parent_span_id == request.span_id
    assert run.trace_id == request.trace_id and not request.parent_span_id


def test_metrics_of_ones_own_org_and_of_all(tmp_path: Path) -> None:
    settings = msgspec.structs.replace(settings_in(tmp_path), metrics_token="an operator's token")
    with studio_in(tmp_path, settings) as studio, conducting(settings, MOCK):
        pipeline = made(studio, asking())
        run = ended(studio, started(studio, pipeline["id"])["id"])
        assert run["status"] == "completed"
        mine = _metrics(studio, studio.headers(Role.VIEWER))
        assert mine["flowmason_recent_runs", ("completed", studio.org)] == 1
        assert mine["flowmason_recent_stages", (studio.org, "completed")[::-1]] == 2
        assert mine["flowmason_recent_tokens", ("input", studio.org)] > 0
        assert mine["flowmason_recent_run_seconds_bucket", ("+Inf", studio.org)] == 1
        assert not _metrics(studio, studio.other_headers(Role.VIEWER))
        every = _metrics(studio, {"Authorization": "Bearer an operator's token"})
        assert every["flowmason_recent_runs", ("completed", studio.org)] == 1
        route = "/api/v1/pipelines/{pipeline_id}/run"
        counted = {key: count for key, count in every.items() if key[0] == "flowmason_http_request_seconds_count"}
        assert any(route in key[1] for key in counted), counted
        assert studio.client.get("/metrics").status_code == 401
        wrong = studio.client.get("/metrics", headers={"Authorization": "Bearer an operator"})
        assert wrong.status_code == 401


def test_what_waits_is_counted_with_its_age(studio: Studio) -> None:
    pipeline = made(studio, hello())
    started(studio, pipeline["id"])
    started(studio, pipeline["id"])
    found = _metrics(studio, studio.headers())
    assert found["flowmason_runs", (studio.org, "waiting")] == 2
    assert found["flowmason_queue_oldest_seconds", (studio.org,)] >= 0
    assert found["flowmason_recent_runs", (studio.org, "queued")] == 2


def _metrics(studio: Studio, headers: dict[str, str]) -> dict[tuple[str, tuple[str, ...]], float]:
    answer = studio.client.get("/metrics", headers=headers)
    assert answer.status_code == 200, answer.text
    found = {}
    for family in text_string_to_metric_families(answer.text):
        for sample in family.samples:
            found[sample.name, tuple(sorted(sample.labels.values()))] = sample.value
    return found


def test_every_metric_of_the_dashboard_and_of_the_documentation_is_there(tmp_path: Path) -> None:
    settings = msgspec.structs.replace(settings_in(tmp_path), metrics_token="token")
    with studio_in(tmp_path, settings) as studio:
        studio.client.get("/health")
        text = studio.client.get("/metrics", headers={"Authorization": "Bearer token"}).text
    told = set(re.findall(r"^# TYPE (\w+)", text, re.M))
    assert told >= set(METRICS)
    dashboard = json.loads((ROOT / "configs/grafana/flowmason.json").read_text())
    asked = [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]
    named = {name for expression in asked for name in re.findall(r"flowmason_\w+", expression)}
    assert {re.sub(r"_(bucket|count|sum|gsum|gcount)$", "", name) for name in named} == set(METRICS)
    documented = re.findall(r"^\| `(flowmason_\w+)` \| ([^|]*) \| ([^|]*) \|", _docs(), re.M)
    assert {name: (meaning.strip(), labels.strip()) for name, meaning, labels in documented} == {
        name: (meaning, ", ".join(f"`{label}`" for label in labels)) for name, (meaning, labels) in METRICS.items()
    }


def _docs() -> str:
    return (ROOT / "docs/observability.md").read_text()


@contextmanager
def _logging(level: str = "INFO") -> Iterator[io.StringIO]:
    root = logging.getLogger()
    names = ("uvicorn", "uvicorn.error", *logs._QUIET)
    kept = root.handlers[:], root.level, {name: logging.getLogger(name).level for name in names}
    stream = io.StringIO()
    logs.install({"FLOWMASON_LOG_LEVEL": level}, stream)
    try:
        yield stream
    finally:
        root.handlers, level_before = kept[0], kept[1]
        root.setLevel(level_before)
        for name, before in kept[2].items():
            logging.getLogger(name).setLevel(before)


def test_log_lines_are_json_with_ids_and_without_credentials(tmp_path: Path) -> None:
    with _logging() as stream, studio_in(tmp_path) as studio:
        answer = studio.client.get("/api/v1/runs", headers={**studio.headers(), "X-Request-ID": "given-by-us"})
        key = studio.keys[Role.OWNER]
        run = "run_" + "0" * 26
        logging.getLogger("flowmason.x").error("run %s: no %s", run, key, extra={"stage": "a[1].b", "why": [key]})
    lines = [json.loads(line) for line in stream.getvalue().splitlines()]
    assert answer.headers["x-request-id"] == "given-by-us"
    (access,) = [line for line in lines if line.get("route") == "/api/v1/runs"]
    assert (access["request_id"], access["org_id"], access["status"]) == ("given-by-us", studio.org, 200)
    (error,) = [line for line in lines if line["logger"] == "flowmason.x"]
    assert (error["run_id"], error["stage"], error["level"]) == (run, "a[1].b", "error")
    assert key not in stream.getvalue()
    assert "fm_live_***" in error["event"] and error["why"] == ["fm_live_***"]


def test_a_conductor_logs_a_failed_stage(tmp_path: Path) -> None:
    settings = settings_in(tmp_path)
    with _logging() as stream, studio_in(tmp_path, settings) as studio, conducting(settings) as conductor:
        conductor.follow(logs.RunLog(lambda run_id: conductor.walkers[run_id].row.org_id))
        stage = hello()["stages"][0] | {"config": {"data": {}, "jmespath_expression": "]["}}
        pipeline = studio.client.post("/api/v1/pipelines", json=hello("bad", stages=[stage]), headers=studio.headers())
        run_id = started(studio, pipeline.json()["id"])["id"]
        assert ended(studio, run_id)["status"] == "failed"
    lines = [json.loads(line) for line in stream.getvalue().splitlines()]
    (failed,) = [line for line in lines if line.get("stage") == "greet" and line["event"].startswith("stage.failed")]
    assert (failed["run_id"], failed["org_id"]) == (run_id, studio.org)


def test_a_local_run_tells_of_loops_retries_and_failures(tmp_path: Path, collector: Collector) -> None:
    stages = [
        {
            "id": "each",
            "component_type": "foreach",
            "config": {"items": [1, 2], "item_variable": "item", "loop_stages": ["inner", "late"]},
        },
        {"id": "inner", "component_type": "json_transform", "config": {"data": {"n": 1}, "jmespath_expression": "n"}},
        {
            "id": "late",
            "component_type": "json_transform",
            "depends_on": ["inner"],
            "config": {"data": {"n": 1}, "jmespath_expression": "@"},
        },
        {
            "id": "bad",
            "component_type": "json_transform",
            "depends_on": ["each"],
            "config": {"data": {}, "jmespath_expression": "nothing(@)"},
        },
    ]
    file = tmp_path / "looping.pipeline.json"
    file.write_text(json.dumps({"name": "looping", "version": "1.0.0", "stages": stages}))
    done = subprocess.run(
        [str(Path(sys.executable).parent / "fm"), "run", str(file), "--on", "local", "--json", "-q"],
        env={**os.environ, "FLOWMASON_HOME": str(tmp_path / "home"), "HOME": str(tmp_path)},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 1, done.stderr
    run_id = json.loads(done.stdout)["run_id"]
    by_id = {span.span_id: span for span in collector.spans}
    (run,) = [span for span in collector.spans if span.name == "run looping"]
    assert _attributes(run)["flowmason.run.id"] == run_id
    assert not run.parent_span_id and run.status.code == 2
    assert {span.trace_id for span in collector.spans} == {run.trace_id}
    for span in collector.spans:
        if span is not run:
            above = by_id[span.parent_span_id]
            assert above.start_time_unix_nano <= span.start_time_unix_nano <= span.end_time_unix_nano
    (each,) = [span for span in collector.spans if span.name == "stage each"]
    assert _attributes(each)["flowmason.status"] == "completed" and each.parent_span_id == run.span_id
    (bad,) = [span for span in collector.spans if span.name == "stage bad"]
    assert bad.status.code == 2 and _attributes(bad)["error.type"] and bad.parent_span_id == run.span_id


@pytest.mark.postgres
def test_figures_behind_row_level_security(postgres_url: str, tmp_path: Path) -> None:
    owner = StudioStore.open(postgres_url)
    ensure_api_role(postgres_url)
    settings = msgspec.structs.replace(settings_in(tmp_path), database_url=postgres_url, metrics_token="token")
    with studio_in(tmp_path, settings) as studio, conducting(settings, MOCK):
        run = ended(studio, started(studio, made(studio, asking())["id"])["id"])
        assert run["status"] == "completed"
        for headers in (studio.headers(), {"Authorization": "Bearer token"}):
            found = _metrics(studio, headers)
            assert found["flowmason_recent_runs", ("completed", studio.org)] == 1
            assert found["flowmason_recent_tokens", ("input", studio.org)] > 0
            assert found["flowmason_recent_run_seconds_bucket", ("+Inf", studio.org)] == 1
        assert not _metrics(studio, studio.other_headers())
    owner.close()
