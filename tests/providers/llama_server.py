"""A real llama.cpp server in a process of its own. Prints its address, and ends when its input is closed."""

from __future__ import annotations

import sys

import xllamacpp

from flowmason.providers.llamacpp import bundled_model

parameters = xllamacpp.CommonParams()
parameters.model.path = str(bundled_model())
parameters.n_ctx = 2048
parameters.n_parallel = 1
parameters.n_batch = parameters.n_ubatch = 128
parameters.cpuparams.n_threads = parameters.cpuparams_batch.n_threads = 1
parameters.api_keys = [sys.argv[1]]
parameters.verbosity = -1
parameters.warmup = False
parameters.endpoint_slots = parameters.endpoint_metrics = True
server = xllamacpp.Server(parameters)
print(server.listening_address, flush=True)
sys.stdin.read()
