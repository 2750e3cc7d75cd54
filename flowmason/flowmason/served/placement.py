"""What a replica asks of a cluster, and whether the cluster has it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from flowmason.errors import Code, FlowMasonError
from flowmason.served.model import ServedModel

Bundle = dict[str, float]
"""Resources that lie on one node, by Ray's names for them."""
_TRACE = 0.001
"""How Ray asks for a kind of accelerator without counting it."""


def bundles(model: ServedModel) -> list[Bundle]:
    """The bundles of one replica: one a GPU, or one for the whole where there is none."""
    if model.gpus is None:
        return [{"CPU": model.cpus}]
    worker: Bundle = {"GPU": 1.0}
    if model.cpus:
        worker["CPU"] = model.cpus
    if model.gpus.accelerator_type:
        worker[f"accelerator_type:{model.gpus.accelerator_type}"] = _TRACE
    return [dict(worker) for _ in range(model.gpus.count)]


def strategy(model: ServedModel) -> str:
    """Ray's placement strategy: layers are split only inside of a node."""
    return "PACK" if model.gpus is not None and model.gpus.pipeline_parallel > 1 else "STRICT_PACK"


def lacking(model: ServedModel, nodes: Sequence[Mapping[str, float]]) -> str | None:
    """Why a cluster has no room for the replicas that the model always has, in words; None: it has.

    `nodes` are the resources of each node that lives, whatever of them is in use just now.
    """
    one = bundles(model)[0]
    side = model.gpus.tensor_parallel if model.gpus is not None else 1
    groups = (model.gpus.pipeline_parallel if model.gpus is not None else 1) * model.least_replicas
    group = {name: amount if name.startswith("accelerator_type:") else amount * side for name, amount in one.items()}
    room = sum(_times(group, node) for node in nodes)
    if room >= groups:
        return None
    if room == 0:
        for name, amount in group.items():
            most = max((node.get(name, 0.0) for node in nodes), default=0.0)
            if amount > most:
                return _shortage(model, name, amount, most)
        return f"no single node has {_words(group)} together"
    what = f"{_words(group)} on one node" if side > 1 else _words(group)
    return f"it needs {groups} times {what}, and the cluster has that {room} times"


def fitted(model: ServedModel, nodes: Sequence[Mapping[str, float]]) -> ServedModel:
    """The model as the cluster can serve it: as it is, or its stand-in for CPUs.

    Raises `FlowMasonError` (`INFEASIBLE_RESOURCES`) where there is room for neither.
    """
    short = lacking(model, nodes)
    if short is None:
        return model
    if model.cpu is not None:
        also = lacking(model.cpu, nodes)
        if also is None:
            return model.cpu
        short = f"{short}; on CPUs: {also}"
    help_ = "Give the cluster such a node, ask for less"
    help_ += "." if model.cpu is not None or model.gpus is None else ", or say with cpu what is served without GPUs."
    raise FlowMasonError(
        f"the model {model.name!r} does not fit this cluster: {short}", code=Code.INFEASIBLE_RESOURCES, help=help_
    )


def _times(group: Bundle, node: Mapping[str, float]) -> int:
    """How often a group fits one node."""
    counts = []
    for name, amount in group.items():
        there = node.get(name, 0.0)
        if name.startswith("accelerator_type:"):
            if there < amount:
                return 0
        elif amount:
            counts.append(int(there / amount + 1e-9))
    return min(counts, default=10**6)


def _shortage(model: ServedModel, name: str, amount: float, most: float) -> str:
    if name.startswith("accelerator_type:"):
        return f"no node has the accelerator {name.partition(':')[2]}"
    if not most:
        return f"no node has a {name}"
    split = f" (tensor_parallel: {model.gpus.tensor_parallel})" if model.gpus is not None and name == "GPU" else ""
    return f"it needs {amount:g} {name}s on one node{split}; the largest has {most:g}"


def _words(group: Bundle) -> str:
    return ", ".join(
        name.partition(":")[2] if name.startswith("accelerator_type:") else f"{amount:g} {name}"
        for name, amount in group.items()
    )
