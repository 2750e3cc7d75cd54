"""Writes a LoRA adapter for llama.cpp: one that changes a single layer, and much."""

from __future__ import annotations

import random
import struct
from pathlib import Path

_STRING, _FLOAT, _F32, _ALIGN = 8, 6, 0, 32


def write_adapter(path: Path, *, width: int = 576, strength: float = 3.0) -> Path:
    """A rank-1 adapter of the output of the first attention layer of a model of that width (SmolLM2-135M: 576)."""
    rng = random.Random(7)
    down = [rng.uniform(-strength, strength) for _ in range(width)]
    up = [rng.uniform(-strength, strength) for _ in range(width)]
    name = "blk.0.attn_output.weight"
    tensors = [(f"{name}.lora_a", (width, 1), down), (f"{name}.lora_b", (1, width), up)]
    texts = {"general.type": "adapter", "general.architecture": "llama", "adapter.type": "lora"}
    head = b"GGUF" + struct.pack("<IQQ", 3, len(tensors), len(texts) + 1)
    for key, text in texts.items():
        head += _text(key) + struct.pack("<I", _STRING) + _text(text)
    head += _text("adapter.lora.alpha") + struct.pack("<If", _FLOAT, 1.0)
    data = b""
    for key, shape, values in tensors:
        head += _text(key) + struct.pack("<I2QIQ", 2, *shape, _F32, len(data))
        data += struct.pack(f"<{len(values)}f", *values)
        data += b"\0" * (-len(data) % _ALIGN)
    path.write_bytes(head + b"\0" * (-len(head) % _ALIGN) + data)
    return path


def _text(text: str) -> bytes:
    return struct.pack("<Q", len(text)) + text.encode()
