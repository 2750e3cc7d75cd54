"""One served model as data."""

from __future__ import annotations

from enum import StrEnum
from typing import Any

import msgspec

from flowmason.errors import UsageError
from flowmason.price import Price

CONTEXT = 8192
"""Tokens of one call on llama.cpp where its `context` does not say."""


class SourceKind(StrEnum):
    """Where weights come from."""

    PATH = "path"
    URL = "url"
    """Any fsspec URL: `s3://…`, `https://…`."""
    PACKAGE = "package"
    """A Python distribution that carries the weights."""
    HUB = "hub"
    """`org/name` of the Hugging Face hub, or of a mirror that `HF_ENDPOINT` names."""


class Engine(StrEnum):
    """What runs a model."""

    VLLM = "vllm"
    LLAMACPP = "llamacpp"


class Source(msgspec.Struct, frozen=True, omit_defaults=True):
    """The weights: a file (`.gguf`) or a folder as `transformers` writes it."""

    kind: SourceKind
    place: str
    """A path (absolute once read from a file), a URL, the name of a distribution, or `org/name`."""
    file: str | None = None
    """Which file of it, as a relative path; None: the only one that can be meant."""
    revision: str | None = None
    """Hub: a branch, tag or commit. Package: its version."""
    sha256: str | None = None
    """Of the one file; another one is refused."""

    def __str__(self) -> str:
        shown = f"{self.kind}:{self.place}"
        shown += f"@{self.revision}" if self.revision else ""
        return shown + (f"#{self.file}" if self.file else "")


class Gpus(msgspec.Struct, frozen=True, omit_defaults=True):
    """The GPUs of one replica: `tensor_parallel` × `pipeline_parallel` of them."""

    tensor_parallel: int = 1
    """Over how many GPUs of one node each layer is split."""
    pipeline_parallel: int = 1
    """Over how many groups of GPUs the layers are spread; a group lies on one node."""
    accelerator_type: str | None = None
    """As Ray names it: `H100`, `A10G`, …; None: any."""

    @property
    def count(self) -> int:
        """GPUs of one replica."""
        return self.tensor_parallel * self.pipeline_parallel


class Autoscaling(msgspec.Struct, frozen=True, omit_defaults=True):
    """How many replicas there are, by how much is asked of them."""

    min: int = 1
    """0: none while nobody asks; the first call then waits for one."""
    max: int = 1
    target_ongoing: int = 8
    """Calls at once that a replica should have."""


class Defaults(msgspec.Struct, frozen=True, omit_defaults=True):
    """What holds where a request does not say it."""

    temperature: float | None = None
    top_p: float | None = None
    max_tokens: int | None = None
    system_prompt: str | None = None
    """The first message of a conversation that has none of the system."""


class Adapter(msgspec.Struct, frozen=True):
    """A LoRA adapter; callers name it as `model/adapter`."""

    name: str
    source: Source


class ServedModel(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    """One model and how it is served."""

    name: str
    """As callers name it."""
    description: str = ""
    source: Source
    engine: Engine
    engine_args: dict[str, Any] = {}
    """llamacpp: `threads`, `context`, `parallel`, `batch`, `gpu_layers`; vllm: its own engine arguments."""
    gpus: Gpus | None = None
    """None: it runs on CPUs."""
    cpus: float = 1
    """Of each worker: of each GPU, or of the replica where there is none."""
    replicas: int = 1
    autoscaling: Autoscaling | None = None
    """In the place of `replicas`."""
    max_ongoing: int = 16
    """Calls that a replica takes at once; more wait at the caller's side."""
    defaults: Defaults = Defaults()
    adapters: tuple[Adapter, ...] = ()
    price: Price | None = None
    """What its calls cost, its adapters' too; None: nothing."""
    cpu: ServedModel | None = None
    """What is served in its place by a cluster that lacks the GPUs."""

    @property
    def least_replicas(self) -> int:
        """How many replicas a cluster must have room for."""
        return self.replicas if self.autoscaling is None else max(1, self.autoscaling.min)

    @property
    def context(self) -> int | None:
        """How many tokens of prompt and answer it takes at once; None: what the weights say."""
        if self.engine is Engine.LLAMACPP:
            return int(self.engine_args.get("context", CONTEXT))
        said = self.engine_args.get("max_model_len")
        return said if isinstance(said, int) and not isinstance(said, bool) and said > 0 else None

    def adapter(self, name: str) -> Adapter:
        """The adapter of a name. Raises `UsageError` where there is none."""
        for each in self.adapters:
            if each.name == name:
                return each
        known = ", ".join(each.name for each in self.adapters) or "none"
        raise UsageError(f"the model {self.name!r} has no adapter {name!r}; it has {known}")
