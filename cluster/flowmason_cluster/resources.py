"""What stages ask for, in Ray's terms, held against what the nodes of a cluster have."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from flowmason.policy import Resources

_WORDS = {"CPU": "num_cpus", "GPU": "num_gpus"}


def task_options(resources: Resources) -> dict[str, Any]:
    """The options of a Ray task for these resources; empty for an ordinary one."""
    if not resources:
        return {}
    found: dict[str, Any] = {"num_cpus": 1 if resources.num_cpus is None else resources.num_cpus}
    if resources.num_gpus:
        found["num_gpus"] = resources.num_gpus
    if resources.memory:
        found["memory"] = resources.memory
    if resources.accelerator_type:
        found["accelerator_type"] = resources.accelerator_type
    if resources.custom:
        found["resources"] = dict(resources.custom)
    return found


def wanted(resources: Resources) -> dict[str, float]:
    """The amounts by the names that Ray gives them on a node."""
    found: dict[str, float] = {"CPU": 1.0 if resources.num_cpus is None else resources.num_cpus, **resources.custom}
    if resources.num_gpus:
        found["GPU"] = resources.num_gpus
    if resources.memory:
        found["memory"] = float(resources.memory)
    if resources.accelerator_type:
        found[f"accelerator_type:{resources.accelerator_type}"] = 0.001
    return {name: amount for name, amount in found.items() if amount}


def lacking(resources: Resources, nodes: Sequence[Mapping[str, float]]) -> str | None:
    """What no single node has enough of, by name; None where one node has it all."""
    needs = wanted(resources)
    if any(all(amount <= node.get(name, 0) for name, amount in needs.items()) for node in nodes):
        return None
    missing = []
    for name, amount in needs.items():
        most = max((node.get(name, 0) for node in nodes), default=0)
        if amount > most:
            missing.append(_shortage(name, amount, most))
    if not missing:
        asked = ", ".join(f"{_word(name)}={_amount(name, amount)}" for name, amount in needs.items())
        return f"no single node has {asked} together"
    return "; ".join(missing)


def alive(nodes: Iterable[Mapping[str, Any]]) -> list[dict[str, float]]:
    """The resources of the nodes that live, as `ray.nodes()` tells of them."""
    return [dict(node.get("Resources", {})) for node in nodes if node.get("Alive")]


def _shortage(name: str, amount: float, most: float) -> str:
    if name.startswith("accelerator_type:"):
        return f"{_word(name)}: no node has one"
    if not most:
        return f"{_word(name)}={_amount(name, amount)}: no node has any"
    return f"{_word(name)}={_amount(name, amount)}: the largest node has {_amount(name, most)}"


def _word(name: str) -> str:
    return name.replace(":", "=", 1) if name.startswith("accelerator_type:") else _WORDS.get(name, name)


def _amount(name: str, amount: float) -> str:
    return f"{amount / 2**30:.3g} GiB" if name == "memory" else f"{amount:g}"
