"""What is run: the same work, described once for a pipeline file and once as a plain graph."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

MODULUS = 1_000_003
BLOB_BYTES = 10 * 1024 * 1024
NAP_S = 0.05


@dataclass(frozen=True)
class Node:
    """A stage of a plain graph: (sum of the parents' values + 1) modulo `MODULUS`; a root reads the input, 1."""

    id: str
    parents: tuple[str, ...] = ()


@dataclass(frozen=True)
class Workload:
    """One workload.

    `shape` says how an engine must run it: `graph` (of `nodes`), `foreach`, `blobs` or `naps`.
    """

    name: str
    title: str
    shape: str
    stages: int
    """Stages in one run."""
    unit: str
    document: dict[str, Any]
    given: dict[str, Any]
    expected: Any
    nodes: tuple[Node, ...] = ()
    ends: tuple[str, ...] = ()
    runs: int = 1
    """How many runs are submitted at once."""
    options: Mapping[str, Any] = field(default_factory=dict)
    only_ours: bool = False
    """A variant that says something only of FlowMason."""
    like: str = ""
    """The workload whose figures of other engines it is held against."""

    def score(self, seconds: float) -> float:
        """The figure in `unit` for a measured time."""
        if self.unit == "runs/s":
            return self.runs / seconds
        if self.unit == "% of ideal":
            return 100 * (NAP_S * 2) / seconds
        return seconds * 1000 / (self.stages * self.runs)


def values_of(nodes: Sequence[Node], given: int) -> dict[str, int]:
    """What every node of a graph comes to."""
    found: dict[str, int] = {}
    for node in nodes:
        base = sum(found[parent] for parent in node.parents) if node.parents else given
        found[node.id] = (base + 1) % MODULUS
    return found


def _stage(node: Node) -> dict[str, Any]:
    values = [f"{{{{upstream.{parent}.value}}}}" for parent in node.parents] or ["{{input.value}}"]
    if len(values) == 1:
        return {"id": node.id, "component": "bench-inc", "config": {"value": values[0]}}
    return {"id": node.id, "component": "bench-add", "config": {"values": values}}


def _document(name: str, stages: list[dict[str, Any]], **more: Any) -> dict[str, Any]:
    schema = {"type": "object", "properties": {"value": {"type": "integer"}, "count": {"type": "integer"}}}
    return {"name": name, "version": "1.0.0", "input_schema": schema, "stages": stages, **more}


def graph(name: str, title: str, nodes: Sequence[Node], *, unit: str = "ms/stage", **more: Any) -> Workload:
    """A workload that is a plain graph."""
    needed = {parent for node in nodes for parent in node.parents}
    ends = tuple(node.id for node in nodes if node.id not in needed)
    values = values_of(nodes, 1)
    expected: Any = {"value": values[ends[0]]} if len(ends) == 1 else {end: {"value": values[end]} for end in ends}
    document = _document(f"bench-{name.lower()}", [_stage(node) for node in nodes])
    return Workload(
        name,
        title,
        "graph",
        len(nodes),
        unit,
        document,
        {"value": 1},
        expected,
        nodes=tuple(nodes),
        ends=ends,
        **more,
    )


def chain(length: int) -> list[Node]:
    """One after the other."""
    return [Node(f"s{n}", (f"s{n - 1}",) if n else ()) for n in range(length)]


def fan(width: int) -> list[Node]:
    """One, many, one."""
    middle = [Node(f"m{n}", ("first",)) for n in range(width)]
    return [Node("first"), *middle, Node("last", tuple(node.id for node in middle))]


def layers(count: int, width: int) -> list[Node]:
    """Every node of a layer reads two of the layer before."""
    made = [Node(f"l0_{n}") for n in range(width)]
    for layer in range(1, count):
        before = f"l{layer - 1}_"
        made += [Node(f"l{layer}_{n}", (f"{before}{n}", f"{before}{(n + 1) % width}")) for n in range(width)]
    return made


def foreach(name: str, title: str, count: int, *, parallel: bool = True, **more: Any) -> Workload:
    """Two stages for each item."""
    stages = [
        {
            "id": "each",
            "component": "foreach",
            "config": {
                "items": "{{input.items}}",
                "loop_stages": ["one", "two"],
                "parallel": parallel,
                "max_parallel": 16,
            },
        },
        {"id": "one", "component": "bench-inc", "config": {"value": "{{item}}"}},
        {"id": "two", "component": "bench-inc", "config": {"value": "{{upstream.one.value}}"}},
    ]
    schema = {"type": "object", "properties": {"items": {"type": "array"}}}
    document = _document(f"bench-{name.lower()}", stages, input_schema=schema)
    return Workload(
        name,
        title,
        "foreach",
        2 * count,
        "ms/stage",
        document,
        {"items": list(range(count))},
        [{"value": item + 2} for item in range(count)],
        **more,
    )


def blobs(length: int) -> Workload:
    """A chain in which every stage reads 10 MiB and makes 10 MiB that are new."""
    stages: list[dict[str, Any]] = []
    for n in range(length):
        data = f"{{{{upstream.s{n - 1}.data}}}}" if n else "{{input.seed}}"
        stages.append({"id": f"s{n}", "component": "bench-blob", "config": {"data": data, "size": BLOB_BYTES}})
    stages.append(
        {
            "id": "end",
            "component": "bench-size",
            "config": {"data": f"{{{{upstream.s{length - 1}.data}}}}", "size": BLOB_BYTES},
        }
    )
    schema = {"type": "object", "properties": {"seed": {"type": "string"}}}
    document = _document("bench-w6", stages, input_schema=schema)
    return Workload(
        "W6",
        f"chain of {length}, a fresh 10 MiB value each",
        "blobs",
        length,
        "ms/stage",
        document,
        {"seed": "A"},
        {"value": BLOB_BYTES * 251 + (ord("A") + length) % 251},
    )


def naps(name: str, title: str, component: str, **more: Any) -> Workload:
    """200 sleeps of 50 ms, 100 at once."""
    stages = [{"id": f"n{n}", "component": component, "config": {"value": n, "seconds": NAP_S}} for n in range(200)]
    return Workload(
        name,
        title,
        "naps",
        200,
        "% of ideal",
        _document(f"bench-{name.lower()}", stages),
        {},
        {f"n{n}": {"value": n + 1} for n in range(200)},
        options={"max_concurrency": 100},
        **more,
    )


def workloads() -> list[Workload]:
    """All of them, in order."""
    lone = {"lone_stages": True}
    return [
        graph("W1", "chain of 100", chain(100)),
        graph("W1-lone", "chain of 100, one region per stage", chain(100), options=lone, only_ours=True, like="W1"),
        graph("W2", "1 → 500 → 1", fan(500)),
        graph("W3", "20 layers × 10, two parents each", layers(20, 10)),
        foreach("W4", "foreach 1,000 × 2 stages, parallel", 1000),
        graph("W5", "100 runs of 5 stages, submitted at once", chain(5), runs=100, unit="runs/s"),
        blobs(10),
        naps("W7", "200 × 50 ms sleep, 100 at once, as tasks", "bench-nap"),
        naps("W7-host", "the same on a node host", "bench-host-nap", only_ours=True, like="W7"),
    ]
