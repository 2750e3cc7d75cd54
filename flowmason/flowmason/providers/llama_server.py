"""A llama.cpp server inside this process, through `xllamacpp`."""

from __future__ import annotations

import importlib
import secrets
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from flowmason.errors import EngineUnavailableError

BATCH = 128
"""Prompt tokens between two looks at whether a call was cancelled: about a second on one core."""


def open_server(
    path: Path,
    *,
    threads: int = 1,
    context: int = 8192,
    parallel: int = 1,
    batch: int = BATCH,
    gpu_layers: int = 0,
    adapters: Sequence[Path] = (),
) -> Any:
    """Load a `.gguf` file. Blocks. `context` is in tokens of one call, `parallel` how many calls are answered at once.

    Adapters are loaded and not applied; a request applies one by its index. Raises `EngineUnavailableError`.
    """
    try:
        xllamacpp = importlib.import_module("xllamacpp")
    except ImportError:
        raise EngineUnavailableError(
            "the package 'xllamacpp' is not installed", help="pip install 'flowmason[llamacpp]'"
        ) from None
    parameters = xllamacpp.CommonParams()
    parameters.model.path = str(path)
    parameters.n_ctx = context * parallel  # it is divided by the number of slots
    parameters.n_parallel = parallel
    parameters.n_batch = parameters.n_ubatch = batch
    parameters.cpuparams.n_threads = parameters.cpuparams_batch.n_threads = threads
    if gpu_layers:
        parameters.n_gpu_layers = gpu_layers
    if adapters:
        parameters.lora_init_without_apply = True
        parameters.lora_adapters = [xllamacpp.CommonAdapterLoraInfo(str(each), 1.0) for each in adapters]
    # The library opens a port on loopback even when it is only called in the process: nobody gets the key to it.
    parameters.api_keys = [secrets.token_hex(32)]
    parameters.n_threads_http = 1
    parameters.endpoint_slots = parameters.ui = False
    parameters.endpoint_metrics = True
    parameters.warmup = False
    parameters.cache_ram_mib = 0
    parameters.verbosity = -1
    try:
        return xllamacpp.Server(parameters)
    except Exception as error:
        raise EngineUnavailableError(f"llama.cpp cannot load {str(path)!r}: {error}") from error
