"""A process of its own that uses Ray as `fm run` does, and prints what came of it as JSON.

Arguments: the address (or `-`), `open` to accept an open Ray, and a project to run `named` and a call of.
"""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path
from typing import Any

from flowmason.errors import FlowMasonError
from flowmason.executor import WorkerSettings
from flowmason.policy import Placement
from flowmason_cluster import warm
from flowmason_cluster.executor import RayExecutor
from ray_kit import Lab, outputs, region, run, stage


async def main(address: str, accept: str, root: str) -> dict[str, Any]:
    lab = Lab(Path(root))
    settings = WorkerSettings(values_url=f"file://{root}/values", project_root=root)
    executor = RayExecutor(settings, address=None if address == "-" else address, allow_open=accept == "open")
    try:
        await executor.start()
    except FlowMasonError as error:
        return {"code": error.failure.code, "message": error.failure.message, "help": error.failure.help}
    assert executor.cluster is not None
    task = outputs(await run(executor, region(lab.plan(stage("named", "title"), name="orders"))))
    call = region(lab.plan(stage("it", "call")), placement=Placement.HOST)
    host = outputs(await run(executor, call))
    found: dict[str, Any] = {"kind": executor.cluster.kind, "task": task["named"]["value"], "host": host["it"]["pid"]}
    if executor.cluster.kind == "warm":
        found["seen"] = await _seen("orders/named", warm.running())
    await executor.close()
    return found


async def _seen(name: str, cluster: warm.ClusterState | None) -> list[str]:
    """Names of tasks as the dashboard knows them; it learns of them a moment later."""
    from ray.util.state import list_tasks

    assert cluster is not None
    for _ in range(40):
        tasks: Any = await asyncio.to_thread(list_tasks, address=cluster.dashboard, filters=[("name", "=", name)])
        if tasks:
            return [task.name for task in tasks]
        await asyncio.sleep(0.25)
    return []


if __name__ == "__main__":
    print(json.dumps(asyncio.run(main(*sys.argv[1:]))))
