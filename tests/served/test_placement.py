"""What a model asks of a cluster, held against its nodes."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowmason.errors import Code, FlowMasonError
from flowmason.served import Autoscaling, Engine, Gpus, ServedModel, Source, SourceKind, bundles, fitted, lacking
from flowmason.served.placement import strategy

CPU = {"CPU": 4.0, "memory": 1e10}
A10 = {"CPU": 16.0, "GPU": 2.0, "accelerator_type:A10G": 1.0}


def _model(**fields: Any) -> ServedModel:
    return ServedModel(name="m", source=Source(SourceKind.HUB, "a/b"), engine=Engine.VLLM, **fields)


def test_a_replica_is_a_bundle_for_each_gpu() -> None:
    assert bundles(_model()) == [{"CPU": 1}]
    worker = {"GPU": 1.0, "CPU": 2.0, "accelerator_type:H100": 0.001}
    assert bundles(_model(cpus=2.0, gpus=Gpus(2, 3, "H100"))) == [worker] * 6
    assert bundles(_model(cpus=0, gpus=Gpus())) == [{"GPU": 1.0}]


def test_layers_are_split_only_inside_of_a_node() -> None:
    assert strategy(_model(gpus=Gpus(4))) == "STRICT_PACK"
    assert strategy(_model(gpus=Gpus(4, 2))) == "PACK"
    reason = lacking(_model(gpus=Gpus(tensor_parallel=4)), [A10, A10])
    assert reason == "it needs 4 GPUs on one node (tensor_parallel: 4); the largest has 2"
    assert lacking(_model(gpus=Gpus(tensor_parallel=2, pipeline_parallel=2)), [A10, A10]) is None


@pytest.mark.parametrize(
    ("model", "reason"),
    [
        (_model(gpus=Gpus()), "no node has a GPU"),
        (_model(cpus=8.0), "it needs 8 CPUs on one node; the largest has 4"),
        (_model(replicas=5), "it needs 5 times 1 CPU, and the cluster has that 4 times"),
    ],
)
def test_what_a_cluster_without_gpus_lacks(model: ServedModel, reason: str) -> None:
    assert lacking(model, [CPU]) == reason


def test_the_kind_of_accelerator_counts() -> None:
    assert lacking(_model(gpus=Gpus(1, 1, "A10G")), [A10]) is None
    assert lacking(_model(gpus=Gpus(1, 1, "H100")), [A10]) == "no node has the accelerator H100"
    other = {"CPU": 8.0, "accelerator_type:H100": 1.0}
    assert "no single node has 1 GPU, 1 CPU, H100 together" in str(
        lacking(_model(gpus=Gpus(1, 1, "H100")), [A10, other])
    )


def test_replicas_that_are_only_there_at_need_are_not_asked_for() -> None:
    assert lacking(_model(autoscaling=Autoscaling(0, 100)), [CPU]) is None


def test_the_stand_in_is_taken_only_where_gpus_are_lacking() -> None:
    cpu = _model(cpus=2.0)
    model = _model(gpus=Gpus(), cpu=cpu)
    assert fitted(model, [A10]) is model
    assert fitted(model, [CPU]) is cpu
    with pytest.raises(FlowMasonError, match=r"no node has a GPU; on CPUs: it needs 2 CPUs") as caught:
        fitted(model, [{"CPU": 1.0}])
    assert caught.value.failure.code == Code.INFEASIBLE_RESOURCES
    with pytest.raises(FlowMasonError, match="no node has a GPU") as caught:
        fitted(_model(gpus=Gpus()), [CPU])
    assert "say with cpu" in str(caught.value.failure.help)


_nodes = st.lists(
    st.fixed_dictionaries({"CPU": st.integers(0, 8).map(float), "GPU": st.integers(0, 4).map(float)}), max_size=4
)


@given(_nodes, st.integers(1, 4), st.integers(1, 3), st.integers(1, 3), st.integers(0, 3))
def test_room_is_found_exactly_where_the_workers_can_be_laid_out(
    nodes: list[dict[str, float]], tensor: int, pipeline: int, replicas: int, cpus: int
) -> None:
    model = _model(gpus=Gpus(tensor, pipeline), replicas=replicas, cpus=float(cpus))
    left = [dict(node) for node in nodes]
    placed = 0
    for node in left:  # groups are alike, so laying out one after the other is best
        while node["GPU"] >= tensor and node["CPU"] >= cpus * tensor:
            node["GPU"] -= tensor
            node["CPU"] -= cpus * tensor
            placed += 1
    assert (lacking(model, nodes) is None) == (placed >= pipeline * replicas)


@given(_nodes, st.integers(1, 4))
def test_a_larger_cluster_never_has_less_room(nodes: list[dict[str, float]], tensor: int) -> None:
    model = _model(gpus=Gpus(tensor))
    if lacking(model, nodes) is None:
        assert lacking(model, [*nodes, {"CPU": 1.0}]) is None
    assert lacking(msgspec.structs.replace(model, replicas=10_000), nodes) is not None
