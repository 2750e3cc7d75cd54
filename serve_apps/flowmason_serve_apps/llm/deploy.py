"""Served models on Ray Serve: the applications, as `configs/serve/models.yaml` names them and the keeper deploys them.

`gateway` is the HTTP endpoint, `model` one model. Each model is an application of its own, so that one that is changed,
fails or grows leaves the others alone; callers find it by its name (`flowmason.served.names`).
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import msgspec

from flowmason.errors import Fault, RefusedError
from flowmason.served import Engine, ServedModel, load_served, names, parse_served
from flowmason_serve_apps.llm.engines import replicas
from flowmason_serve_apps.llm.handles import Handles
from flowmason_serve_apps.llm.llama import LlamaEngine
from flowmason_serve_apps.studio.supervised import private_variables
from ray import serve

_MOST_ONGOING = 10_000
_GRACE_S = 5.0


class GatewayArguments(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Arguments of `gateway` in a Serve config."""

    replicas: int = 1


class Gateway:
    """A replica of the endpoint."""


def asgi() -> Any:
    """The FastAPI application, made where a replica runs."""
    os.environ.update(private_variables(os.environ))
    from flowmason.studio import logs
    from flowmason_serve_apps.llm.app import make_gateway

    logs.install()
    return make_gateway(Handles())


def gateway(args: dict[str, Any]) -> serve.Application:
    """The endpoint as a Serve application. Raises `msgspec.ValidationError` for arguments that it does not have."""
    wanted = msgspec.convert(args, GatewayArguments, strict=False)
    deployment: Any = serve.deployment(
        serve.ingress(asgi)(Gateway),
        name="gateway",
        num_replicas=wanted.replicas,
        max_ongoing_requests=_MOST_ONGOING,
        graceful_shutdown_timeout_s=_GRACE_S,
        ray_actor_options={"num_cpus": 0},
    )
    bound: serve.Application = deployment.bind()
    return bound


def model(args: dict[str, Any]) -> serve.Application:
    """One model as a Serve application: its document, or `{"file": path}` of one on every node, and `cpu: true` for
    what stands in for it where there are no GPUs.

    Raises `RefusedError` for a faulty document, `EngineUnavailableError` where vLLM is asked for and not installed.
    """
    given = dict(args)
    stand_in = given.pop("cpu", None) if given.get("cpu") is True else None
    file = given.pop("file", None)
    if file is not None:
        declared: ServedModel | None = load_served(Path(str(file)))
    else:
        faults: list[Fault] = []
        declared = parse_served(given, faults)
        if declared is None:
            raise RefusedError(faults)
    assert declared is not None
    return application(declared.cpu if stand_in and declared.cpu is not None else declared)


def application(model: ServedModel) -> serve.Application:
    """The application of a model that fits the cluster."""
    if model.engine is Engine.VLLM:
        from flowmason_serve_apps.llm import vllm

        return vllm.application(model)
    options: dict[str, Any] = {"num_cpus": model.cpus}
    if model.gpus is not None:
        options |= {"num_gpus": model.gpus.count}
        if model.gpus.accelerator_type:
            options["accelerator_type"] = model.gpus.accelerator_type
    engine: Any = serve.deployment(
        LlamaEngine,
        name=names.ENGINE,
        max_ongoing_requests=model.max_ongoing,
        graceful_shutdown_timeout_s=_GRACE_S,
        ray_actor_options=options,
        **replicas(model),
    )
    bound: serve.Application = engine.bind(model)
    return bound
