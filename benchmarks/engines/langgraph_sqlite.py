"""LangGraph with its SQLite saver: a checkpoint after every superstep, written before the next begins."""

from __future__ import annotations

import asyncio
import operator
import os
import time
import uuid
from pathlib import Path
from typing import Annotated, Any, TypedDict

from benchmarks.workloads import BLOB_BYTES, MODULUS, NAP_S, Node, Workload


def _merge(old: dict[str, Any], new: dict[str, Any]) -> dict[str, Any]:
    return {**old, **new}


class _State(TypedDict, total=False):
    given: int
    values: Annotated[dict[str, Any], _merge]


class _Blob(TypedDict, total=False):
    data: bytes
    size: int


class _Loop(TypedDict, total=False):
    items: list[int]
    results: Annotated[list[tuple[int, int]], operator.add]


class _Item(TypedDict, total=False):
    item: int
    one: int
    results: Annotated[list[tuple[int, int]], operator.add]


def _work(node: Node) -> Any:
    async def run(state: _State) -> dict[str, Any]:
        found = state.get("values", {})
        values = [found[parent] for parent in node.parents] or [state["given"]]
        return {"values": {node.id: (sum(values) + 1) % MODULUS}}

    return run


class LangGraph:
    """A compiled graph per workload, a thread id per run."""

    async def start(self, folder: Path) -> None:
        from langgraph.checkpoint.sqlite.aio import AsyncSqliteSaver

        self.opening = AsyncSqliteSaver.from_conn_string(str(folder / "langgraph.db"))
        self.saver = await self.opening.__aenter__()
        await self.saver.setup()
        self.graphs: dict[str, Any] = {}

    async def prepare(self, workload: Workload) -> bool:
        if workload.only_ours:
            return False
        if workload.name not in self.graphs:
            graph = getattr(self, f"_make_{workload.shape}")(workload)
            self.graphs[workload.name] = graph.compile(checkpointer=self.saver)
        return True

    async def run(self, workload: Workload) -> tuple[float, list[Any]]:
        limit = workload.options.get("max_concurrency")
        configs = [
            {
                "configurable": {"thread_id": uuid.uuid4().hex},
                "recursion_limit": 10_000,
                **({"max_concurrency": limit} if limit else {}),
            }
            for _ in range(workload.runs)
        ]
        graph, given = self.graphs[workload.name], self._given(workload)
        begun = time.perf_counter()
        ended = await asyncio.gather(*(graph.ainvoke(given, config, durability="sync") for config in configs))
        took = time.perf_counter() - begun
        return took, [self._output(workload, state) for state in ended]

    def _given(self, workload: Workload) -> dict[str, Any]:
        if workload.shape == "blobs":
            return {"data": workload.given["seed"].encode()}
        if workload.shape == "foreach":
            return {"items": workload.given["items"], "results": []}
        return {"given": 1, "values": {}}

    def _output(self, workload: Workload, state: dict[str, Any]) -> Any:
        if workload.shape == "blobs":
            return {"value": state["size"]}
        if workload.shape == "foreach":
            return [{"value": value} for _, value in sorted(state["results"])]
        found = state["values"]
        if workload.shape == "naps":
            return {name: {"value": value} for name, value in found.items()}
        if len(workload.ends) == 1:
            return {"value": found[workload.ends[0]]}
        return {end: {"value": found[end]} for end in workload.ends}

    def _make_graph(self, workload: Workload) -> Any:
        from langgraph.graph import END, START, StateGraph

        graph: Any = StateGraph(_State)
        for node in workload.nodes:
            graph.add_node(node.id, _work(node))
            graph.add_edge(list(node.parents) if len(node.parents) > 1 else (node.parents or (START,))[0], node.id)
        for end in workload.ends:
            graph.add_edge(end, END)
        return graph

    def _make_foreach(self, workload: Workload) -> Any:
        from langgraph.graph import END, START, StateGraph
        from langgraph.types import Send

        async def one(state: _Item) -> dict[str, Any]:
            return {"one": state["item"] + 1}

        async def two(state: _Item) -> dict[str, Any]:
            return {"results": [(state["item"], state["one"] + 1)]}

        body: Any = StateGraph(_Item)
        body.add_node("one", one)
        body.add_node("two", two)
        body.add_edge(START, "one")
        body.add_edge("one", "two")
        body.add_edge("two", END)
        inner = body.compile()

        async def each(state: _Item) -> dict[str, Any]:
            return {"results": (await inner.ainvoke(state))["results"]}

        def spread(state: _Loop) -> list[Any]:
            return [Send("each", {"item": item, "results": []}) for item in state["items"]]

        graph: Any = StateGraph(_Loop)
        graph.add_node("each", each)
        graph.add_conditional_edges(START, spread, ["each"])
        graph.add_edge("each", END)
        return graph

    def _make_blobs(self, workload: Workload) -> Any:
        from langgraph.graph import END, START, StateGraph

        async def blob(state: _Blob) -> dict[str, Any]:
            step = (state["data"][0] + 1) % 251
            return {"data": bytes((step,)) + os.urandom(15) + b"\x07" * (BLOB_BYTES - 16)}

        async def size(state: _Blob) -> dict[str, Any]:
            return {"size": len(state["data"]) * 251 + state["data"][0]}

        graph: Any = StateGraph(_Blob)
        before: Any = START
        for n in range(workload.stages):
            graph.add_node(f"s{n}", blob)
            graph.add_edge(before, f"s{n}")
            before = f"s{n}"
        graph.add_node("end", size)
        graph.add_edge(before, "end")
        graph.add_edge("end", END)
        return graph

    def _make_naps(self, workload: Workload) -> Any:
        from langgraph.graph import END, START, StateGraph

        def nap(n: int) -> Any:
            async def run(state: _State) -> dict[str, Any]:
                await asyncio.sleep(NAP_S)
                return {"values": {f"n{n}": n + 1}}

            return run

        graph: Any = StateGraph(_State)
        for n in range(workload.stages):
            graph.add_node(f"n{n}", nap(n))
            graph.add_edge(START, f"n{n}")
            graph.add_edge(f"n{n}", END)
        return graph

    async def close(self) -> None:
        await self.opening.__aexit__(None, None, None)
