"""Inside the sandbox: load one component of one package and run it when the worker says so.

The only way out is the pipe to the worker (`flowmason.sandbox.wire`). Nothing here guards anything: the walls are
around this process, and the worker checks what it is asked for.
"""

from __future__ import annotations

from flowmason.sandboxed.serving import main

__all__ = ["main"]
