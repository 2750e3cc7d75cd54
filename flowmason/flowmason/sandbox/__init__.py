"""Components that are not trusted, run in a child that can reach nothing: the worker's side.

    launch   the child's walls: bubblewrap, an empty environment, its own files, no network
    wire     what the two sides say to each other, as frames over a pipe
    pool     `Sandboxes`: which child runs what, and when it goes
    answers  what a child may ask the worker for: models, HTTP through the egress guard, blobs, the cache

What runs inside is `flowmason.sandboxed`. Where bubblewrap does not work, such components are refused by name.
"""

from __future__ import annotations

from flowmason.sandbox.pool import Sandboxed, Sandboxes

__all__ = ["Sandboxed", "Sandboxes"]
