"""What every node of a cluster must have before runs go there: our versions, the values, the files of the project.

One small task on each node looks. A node that lacks something would fail, or lose, whatever lands there; it is named
at the start instead.
"""

from __future__ import annotations

import asyncio
import contextlib
import platform
import secrets
import time
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from flowmason.errors import EngineUnavailableError, FlowMasonError
from flowmason.executor import WorkerSettings
from flowmason.ids import LOCAL_ORG, Digest, sha256
from flowmason.values_fs import open_values
from flowmason_cluster.joining import local_folder

_ANSWER_S = 90.0
_LOOK_S = 1.0


def versions() -> dict[str, str]:
    """What has to agree between the driver and the workers."""
    major, minor, _ = platform.python_version_tuple()
    return {"python": f"{major}.{minor}", "flowmason": version("flowmason")}


def look(values_url: str, mark: str | None, folder: str | None) -> dict[str, str]:
    """On a node: its versions, why the value `mark` cannot be read there (`values`), whether `folder` lacks."""
    found = versions()
    if mark is not None:
        try:
            open_values(values_url).get(LOCAL_ORG, Digest(mark))
        except FlowMasonError as error:
            found["values"] = str(error)
    if folder is not None and not Path(folder).is_dir():
        found["folder"] = folder
    return found


async def check(address: str, nodes: Mapping[str, str], settings: WorkerSettings) -> None:
    """Look at nodes (Ray's id → the address that people know). Raises `EngineUnavailableError` naming what lacks.

    A value is put into the store for that time: several nodes must all see it.
    """
    values, data = open_values(settings.values_url), secrets.token_bytes(16)
    mark = sha256(data) if len(nodes) > 1 else None
    if mark is not None:
        await asyncio.to_thread(values.put, LOCAL_ORG, mark, data)
    try:
        answers = await asyncio.gather(*(_ask(address, node, settings, mark) for node in nodes))
    finally:
        if mark is not None:
            with contextlib.suppress(FlowMasonError):
                await asyncio.to_thread(values.delete, LOCAL_ORG, mark)
    for (node, name), answer in zip(nodes.items(), answers, strict=True):
        where = f"the node {name} ({node[:8]})" if len(nodes) > 1 else f"the workers at {address}"
        if answer is not None:
            _judge(where, answer, settings, many=len(nodes) > 1)


async def _ask(address: str, node: str, settings: WorkerSettings, mark: str | None) -> dict[str, str] | None:
    """What `look` says on a node; None where the node has gone meanwhile."""
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    import ray

    there = NodeAffinitySchedulingStrategy(node, soft=False)
    task: Any = ray.remote(num_cpus=0, max_retries=0)(look)
    deadline = time.monotonic() + _ANSWER_S
    while time.monotonic() < deadline:
        placed = task.options(name="flowmason/node", scheduling_strategy=there)
        answer = placed.remote(settings.values_url, mark, code_folder(settings))
        asked: asyncio.Future[dict[str, str]] = asyncio.ensure_future(answer)
        while not (await asyncio.wait([asked], timeout=_LOOK_S))[0] and time.monotonic() < deadline:
            if node not in living(await asyncio.to_thread(ray.nodes)):
                asked.cancel()
                return None
        try:
            if asked.done():
                return asked.result()
        except (ray.exceptions.TaskUnschedulableError, ray.exceptions.NodeDiedError):
            # It has just come, or just gone, and not everybody has heard of that.
            if node not in living(await asyncio.to_thread(ray.nodes)):
                return None
            await asyncio.sleep(_LOOK_S / 4)
        except ray.exceptions.RayError as error:
            raise EngineUnavailableError(
                f"the workers at {address} cannot run FlowMason: {str(error).strip().splitlines()[-1]}",
                help=f"Install flowmason=={versions()['flowmason']} where the workers run.",
            ) from error
    raise EngineUnavailableError(
        f"the cluster at {address} started no worker on the node {node[:8]} within {_ANSWER_S:g} s",
        help="Is it overloaded?",
    )


def _judge(where: str, answer: Mapping[str, str], settings: WorkerSettings, *, many: bool) -> None:
    verb = "runs" if many else "run"
    for name, here in versions().items():
        if answer.get(name) != here:
            raise EngineUnavailableError(
                f"{where} {verb} {name} {answer.get(name)}, here it is {here}",
                help="Both sides need the same versions.",
            )
    if "values" in answer:
        help = "Give every node the same FLOWMASON_VALUES_URL, and what it takes to read there."
        if local_folder(settings.values_url):
            help = "Mount that folder on every node at the same place, or name a store such as s3://bucket/path."
        raise EngineUnavailableError(
            f"{where} does not see the values at {settings.values_url} (FLOWMASON_VALUES_URL): {answer['values']}",
            help=help,
        )
    if "folder" in answer:
        raise EngineUnavailableError(
            f"{where} does not have {answer['folder']}, the code of this project",
            help="Mount the project on every node at the same place.",
        )


def code_folder(settings: WorkerSettings) -> str | None:
    """The folder with the project's own components, where it has some."""
    folder = None if settings.project_root is None else Path(settings.project_root, "components")
    return str(folder) if folder is not None and folder.is_dir() else None


def living(nodes: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """Ray's id → address of the nodes that live, as `ray.nodes()` tells of them."""
    return {node["NodeID"]: str(node.get("NodeManagerAddress", "")) for node in nodes if node.get("Alive")}
