"""Models that an operator serves on Ray Serve: what `configs/llm/*.yaml` says, what it asks of a cluster, where weights
come from.

    model      the document as data
    parsing    plain values to that data, every fault at once; reading: the files of a folder
    placement  the bundles of a replica, held against the nodes of a cluster
    sources    weights from a path, an fsspec URL, a Python package or a hub, kept in a cache
    names      how applications of Serve and their deployments are called, so that callers find them

No Ray here: who deploys is `flowmason_serve_apps.llm`, who calls is the provider `models`.
"""

from flowmason.served.model import (
    Adapter,
    Autoscaling,
    Defaults,
    Engine,
    Gpus,
    ServedModel,
    Source,
    SourceKind,
)
from flowmason.served.parsing import parse_served
from flowmason.served.placement import Bundle, bundles, fitted, lacking
from flowmason.served.reading import FOLDER, load_served, read_folder

__all__ = [
    "FOLDER",
    "Adapter",
    "Autoscaling",
    "Bundle",
    "Defaults",
    "Engine",
    "Gpus",
    "ServedModel",
    "Source",
    "SourceKind",
    "bundles",
    "fitted",
    "lacking",
    "load_served",
    "parse_served",
    "read_folder",
]
