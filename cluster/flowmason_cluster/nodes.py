"""What every node of a cluster must have before runs go there: our versions and the values.

One small task on each node looks. A node that lacks something would fail, or lose, whatever lands there; at the start
of a run it is named instead, and one that comes later is not used. The project's own code is sent along.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import platform
import secrets
import time
from collections.abc import Iterable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import msgspec

from flowmason.errors import EngineUnavailableError, FlowMasonError
from flowmason.executor import WorkerSettings
from flowmason.ids import LOCAL_ORG, Digest, sha256
from flowmason.project import MANIFEST, load_project
from flowmason.registry.shipping import archive_code
from flowmason.values_fs import open_values
from flowmason_cluster.joining import local_folder

log = logging.getLogger("flowmason.cluster")

_ANSWER_S = 90.0
_LOOK_S = 1.0
_AGAIN_S = 60.0
_NODE_LABEL = "ray.io/node-id"


def versions() -> dict[str, str]:
    """What has to agree between the driver and the workers."""
    major, minor, _ = platform.python_version_tuple()
    return {"python": f"{major}.{minor}", "flowmason": version("flowmason")}


def look(values_url: str, mark: str | None) -> dict[str, str]:
    """On a node: its versions, and why the value `mark` cannot be read there (`values`)."""
    found = versions()
    if mark is not None:
        try:
            open_values(values_url).get(LOCAL_ORG, Digest(mark))
        except FlowMasonError as error:
            found["values"] = str(error)
    return found


async def check(address: str, nodes: Mapping[str, str], settings: WorkerSettings) -> None:
    """Look at nodes (Ray's id → the address that people know). Raises `EngineUnavailableError` naming what lacks."""
    faults = await lacking(address, nodes, settings, many=len(nodes) > 1)
    for fault in faults.values():
        raise fault


async def lacking(
    address: str, nodes: Mapping[str, str], settings: WorkerSettings, *, many: bool
) -> dict[str, EngineUnavailableError]:
    """What is wrong with nodes (Ray's id → the address that people know), by their ids; a good one is not named.

    `many`: whether they are some of several, which must all see a value that is put into the store for that time.
    """
    values, data = open_values(settings.values_url), secrets.token_bytes(16)
    mark = sha256(data) if many else None
    if mark is not None:
        await asyncio.to_thread(values.put, LOCAL_ORG, mark, data)
    try:
        asked = (_ask(address, node, settings, mark) for node in nodes)
        answers = await asyncio.gather(*asked, return_exceptions=True)
    finally:
        if mark is not None:
            with contextlib.suppress(FlowMasonError):
                await asyncio.to_thread(values.delete, LOCAL_ORG, mark)
    found: dict[str, EngineUnavailableError] = {}
    for (node, name), answer in zip(nodes.items(), answers, strict=True):
        try:
            if isinstance(answer, BaseException):
                raise answer
            if answer is not None:
                where = f"the node {name} ({node[:8]})" if many else f"the workers at {address}"
                _judge(where, answer, settings, many=many)
        except EngineUnavailableError as error:
            found[node] = error
    return found


async def _ask(address: str, node: str, settings: WorkerSettings, mark: str | None) -> dict[str, str] | None:
    """What `look` says on a node; None where the node has gone meanwhile."""
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    import ray

    there = NodeAffinitySchedulingStrategy(node, soft=False)
    task: Any = ray.remote(num_cpus=0, max_retries=0)(look)
    deadline = time.monotonic() + _ANSWER_S
    while time.monotonic() < deadline:
        placed = task.options(name="flowmason/node", scheduling_strategy=there)
        answer = placed.remote(settings.values_url, mark)
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


def with_code(settings: WorkerSettings) -> WorkerSettings:
    """The settings with the project's own code in the value store, for the nodes that do not have the project.

    It is put there anew by every run, and touched: no sweep takes it while the run is young. Blocks.
    """
    root = settings.project_root
    if root is None or not Path(root, MANIFEST).is_file():
        return settings
    project = load_project(Path(root))
    data = archive_code(project.root, project.components.include, project.components.exclude)
    if data is None:
        return settings
    digest = sha256(data)
    open_values(settings.values_url).put(LOCAL_ORG, digest, data)
    return msgspec.structs.replace(settings, project_archive=digest)


class Newcomers:
    """Nodes that come while runs are under way: looked at once, and avoided where they lack something."""

    def __init__(self, address: str, known: Iterable[str], settings: WorkerSettings) -> None:
        self.avoided: set[str] = set()
        """Ids of nodes that nothing is sent to."""
        self._address = address
        self._settings = settings
        self._looked = dict.fromkeys(known, time.monotonic())

    async def look(self, nodes: Mapping[str, str]) -> None:
        """Look at those among all living nodes that are new, and now and then at those that lacked something."""
        self.avoided &= set(nodes)
        now = time.monotonic()
        again = {node for node in self.avoided if now - self._looked[node] > _AGAIN_S}
        new = {node: name for node, name in nodes.items() if node not in self._looked or node in again}
        if not new:
            return
        faults = await lacking(self._address, new, self._settings, many=len(nodes) > 1)
        self._looked.update(dict.fromkeys(new, now))
        for node, name in new.items():
            if node in faults and node not in self.avoided:
                log.warning("nothing is sent to the new node %s: %s", name, faults[node])
        self.avoided = (self.avoided - set(new)) | set(faults)

    def options(self) -> dict[str, Any]:
        """The options by which tasks and actors of Ray keep away from avoided nodes."""
        return {"label_selector": {_NODE_LABEL: f"!in({','.join(sorted(self.avoided))})"}} if self.avoided else {}


def living(nodes: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """Ray's id → address of the nodes that live, as `ray.nodes()` tells of them."""
    return {node["NodeID"]: str(node.get("NodeManagerAddress", "")) for node in nodes if node.get("Alive")}
