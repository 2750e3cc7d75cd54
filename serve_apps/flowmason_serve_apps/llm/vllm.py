"""vLLM as an engine, through Ray Serve's LLM support. Imported only where vLLM is installed."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Any

from flowmason.errors import EngineUnavailableError, FlowMasonError
from flowmason.served import ServedModel, bundles, names
from flowmason.served.placement import strategy
from flowmason.served.sources import fetch
from flowmason_serve_apps.llm.engines import Body, Card, Chunk, Counts, completed, failed, replicas
from ray import serve

try:
    from ray.serve.llm import LLMConfig, build_llm_deployment
    from ray.serve.llm.deployment import LLMServer
    from ray.serve.llm.openai_api_models import ChatCompletionRequest, CompletionRequest
except ImportError as error:
    raise EngineUnavailableError(
        f"vLLM is not installed here: {error}", help="docs/models.md says how it is installed; make test-vllm does it."
    ) from error

_GRACE_S = 5.0
_DATA = "data: "
_ON_CPU = {
    # Cores are shared with stages: threads of vLLM's are bound to none of them.
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    # GiB; by default it would take most of the machine's memory.
    "VLLM_CPU_KVCACHE_SPACE": "1",
}
_COUNTERS = {
    "input_tokens": "vllm:prompt_tokens_total",
    "output_tokens": "vllm:generation_tokens_total",
    "running": "vllm:num_requests_running",
    "waiting": "vllm:num_requests_waiting",
}


class VllmEngine(LLMServer):  # type: ignore[misc, unused-ignore]
    """`Engine` over Ray's `LLMServer`."""

    async def __init__(self, llm_config: Any, *, model: ServedModel) -> None:  # type: ignore[misc]
        """Fetch the weights where they are not here, and start vLLM. `llm_config` told Serve where to place it."""
        self._model = model
        path = await asyncio.to_thread(fetch, model.source, os.environ)
        adapters = {each.name: await asyncio.to_thread(fetch, each.source, os.environ) for each in model.adapters}
        await super().__init__(config_of(model, str(path)))
        from ray.llm._internal.serve.core.configs.llm_config import DiskMultiplexConfig

        engine: Any = self.engine
        for number, (name, place) in enumerate(adapters.items(), 1):
            await engine.resolve_lora(
                DiskMultiplexConfig(
                    model_id=f"{model.name}/{name}",
                    max_total_tokens=None,
                    local_path=str(place),
                    lora_assigned_int_id=number,
                )
            )

    async def answer(self, body: Body) -> AsyncIterator[list[Chunk]]:
        """See `Engine.answer`."""
        try:
            wanted = names.adapted(str(body.get("model") or self._model.name))[1]
            if wanted is not None:
                self._model.adapter(wanted)
            question = {"model": self._model.name, **completed(body, self._model)}
            chat = "messages" in question
            request = (ChatCompletionRequest if chat else CompletionRequest)(**question)
        except FlowMasonError as error:
            yield [failed(404, str(error), "not_found_error")]
            return
        except ValueError as error:
            yield [failed(400, str(error)[:2000], "invalid_request_error")]
            return
        # Not in batches of 50 ms, as Ray would: the first token counts.
        stream = await self._run_request(request, engine_method="chat" if chat else "completions")
        async with aclosing(stream) as pieces:
            async for piece in pieces:
                if chunks := list(_chunks(piece)):
                    yield chunks

    async def counts(self) -> Counts:
        """See `Engine.counts`."""
        from prometheus_client import REGISTRY

        found = dict.fromkeys(_COUNTERS, 0)
        for metric in REGISTRY.collect():
            for sample in metric.samples:
                for key, name in _COUNTERS.items():
                    if sample.name == name:
                        found[key] += int(sample.value)
        return Counts(**found)

    async def describe(self) -> Card:
        """See `Engine.describe`."""
        return Card.of(self._model)


def config_of(model: ServedModel, source: str) -> Any:
    """The model in the words of Ray's LLM support; `source` is where its weights lie."""
    arguments = {
        # A model that may put any space between two tokens of JSON may never come to the next one.
        "structured_outputs_config": {"backend": "xgrammar", "disable_any_whitespace": True},
        **model.engine_args,
        "max_num_seqs": model.max_ongoing,
    }
    if model.adapters:
        arguments |= {"enable_lora": True, "max_loras": len(model.adapters)}
    if model.gpus is not None:
        arguments |= {
            "tensor_parallel_size": model.gpus.tensor_parallel,
            "pipeline_parallel_size": model.gpus.pipeline_parallel,
        }
    variables = {"HF_HUB_OFFLINE": "1", **({} if model.gpus is not None else _ON_CPU)}
    made: Any = LLMConfig
    return made(
        model_loading_config={"model_id": model.name, "model_source": source},
        accelerator_type=model.gpus.accelerator_type if model.gpus is not None else None,
        accelerator_config={"kind": "cpu" if model.gpus is None else "gpu"},
        placement_group_config={"bundles": bundles(model), "strategy": strategy(model)},
        engine_kwargs=arguments,
        deployment_config={
            **replicas(model),
            "max_ongoing_requests": model.max_ongoing,
            "graceful_shutdown_timeout_s": _GRACE_S,
            # Its CPUs are those of the first bundle.
            "ray_actor_options": {"num_cpus": 0},
        },
        # What the environment of the cluster says goes before.
        runtime_env={"env_vars": {name: os.environ.get(name, text) for name, text in variables.items()}},
        # vLLM's own counters, in the replica's process.
        log_engine_metrics=False,
    )


def application(model: ServedModel) -> serve.Application:
    """The application of a model on vLLM."""
    bound: serve.Application = build_llm_deployment(
        config_of(model, model.source.place),
        deployment_cls=VllmEngine,
        bind_kwargs={"model": model},
        override_serve_options={"name": names.ENGINE},
    )
    return bound


def _chunks(piece: Any) -> Any:
    """The chunks in what an engine yields: lines of a stream of events, or an error."""
    if not isinstance(piece, str):
        error = piece.error
        yield failed(int(error.code), str(error.message), str(error.type))
        return
    for line in piece.splitlines():
        if line.startswith(_DATA) and line != f"{_DATA}[DONE]":
            yield json.loads(line.removeprefix(_DATA))
