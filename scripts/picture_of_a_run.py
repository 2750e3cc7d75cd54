"""Draws docs/images/run.svg: the live view of `fm run` on examples/10_local_llm, half-way and at the end.

The frames are those that the terminal shows; only the recording differs. Needs the local model.
"""

from __future__ import annotations

import asyncio
import io
import json
import re
import tempfile
import time
from pathlib import Path

from rich.console import Console

from flowmason.assembly.running import opened, run_pipeline
from flowmason.assembly.workspace import Workspace
from flowmason.cli.live import LiveModel
from flowmason.cli.live.terminal import render

ROOT = Path(__file__).resolve().parent.parent
EXAMPLE = ROOT / "examples" / "10_local_llm"
TARGET = ROOT / "docs" / "images" / "run.svg"
WIDTH = 96
TEXT = 60
"""So much of an answer is to be seen."""


async def draw(on: str) -> None:
    """Run the example and keep two frames of it."""
    console = Console(record=True, width=WIDTH, file=io.StringIO(), force_terminal=True, highlight=False)
    workspace = Workspace.at(EXAMPLE / "briefing.pipeline.json")
    compiled = workspace.compile(EXAMPLE / "briefing.pipeline.json")
    model = LiveModel(compiled.plan)
    given = json.loads((EXAMPLE / "input.json").read_text())

    def frame(number: int = 3) -> None:
        console.print(render(model.view(int(time.time() * 1000)), WIDTH, number))

    async def half_way() -> None:
        while True:
            await asyncio.sleep(0.02)
            rows = model.view(int(time.time() * 1000)).rows
            if any(row.total and row.done for row in rows) and any(len(row.tail) > TEXT for row in rows):
                return frame()

    console.print("$ fm run -f input.json", style="bold green")
    with tempfile.TemporaryDirectory() as folder:
        async with opened(workspace, on=on, journal=f"sqlite:///{folder}/runs.db", values=f"{folder}/values") as (
            stores,
            executor,
        ):
            watching = asyncio.create_task(half_way())

            def begun(host: object, run_id: object) -> None:
                model.run_id = run_id  # type: ignore[assignment]
                console.print(f"[bold]briefing[/]@1.0.0 on {executor.name}: {run_id}")

            await run_pipeline(
                workspace, compiled, given, stores=stores, executor=executor, feeds=[model], on_start=begun
            )
            await asyncio.wait_for(watching, 1)
    console.print("\nsome seconds later:", style="dim italic")
    frame()
    TARGET.parent.mkdir(parents=True, exist_ok=True)
    # Without the fonts that rich would have a browser fetch from elsewhere.
    TARGET.write_text(re.sub(r"@font-face {.*?}\s*", "", console.export_svg(title="fm run"), flags=re.DOTALL) + "\n")
    print(f"wrote {TARGET.relative_to(ROOT)}")


if __name__ == "__main__":
    asyncio.run(draw("ray"))
