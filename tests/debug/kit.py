"""A debugged run, driven as somebody at a debugger drives it: look, then one command, then look again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from flowmason import debug
from flowmason.conductor.loading import load_state
from flowmason.debug import DebugState, Prompt
from flowmason.ids import OrgId
from flowmason.state import RunState
from running.kit import Engine, Result, Running


class Debugged:
    """A run under way, or standing."""

    def __init__(self, engine: Engine, running: Running) -> None:
        self.engine = engine
        self.running = running

    async def stands(self) -> DebugState:
        """Wait until nobody walks it any more, and look."""
        await self.running.end()
        return await self.look()

    async def look(self, *watches: str) -> DebugState:
        """Where it stands."""
        state = await self.state()
        return debug.view(state, self.load, watches=watches)

    async def state(self) -> RunState:
        """Its state, folded from the journal alone."""
        journal = self.running.host.stores.journal
        row = await journal.row(self.running.run_id)
        assert row is not None
        return await load_state(journal, row)

    def load(self, source: Any) -> Any:
        return debug.loader(lambda digest: self.engine.values.get(OrgId("local"), digest))(source)

    async def do(self, name: str, **arguments: Any) -> DebugState:
        """Give a command and wait until it stands again."""
        await self.running.command(name, **arguments)
        self.running.start()
        return await self.stands()

    async def go_on(self, **arguments: Any) -> DebugState:
        """Continue to the next stop."""
        return await self.do("continue", **arguments)

    async def step(self, kind: str = "over") -> DebugState:
        """One step."""
        return await self.do("step", kind=kind)

    async def prompt(self, path: str) -> Prompt:
        """The prompt of a stage."""
        state = await self.state()
        stage = debug.stage_at(state, path)
        lines = [line for _, line in await self.running.host.stores.journal.logs(self.running.run_id)]
        return debug.prompt_of(state, stage, self.load, lines)

    async def result(self) -> Result:
        """What has become of it."""
        return await self.engine.result(self.running)


async def start(
    engine: Engine,
    document: Mapping[str, Any],
    *breakpoints: Any,
    exceptions: Sequence[str] = (),
    stop_on_entry: bool = False,
    **more: Any,
) -> Debugged:
    """Submit a run that stops at these breakpoints, and walk it."""
    given = {"breakpoints": list(breakpoints), "exceptions": list(exceptions), "stop_on_entry": stop_on_entry}
    return Debugged(engine, await engine.begin(document, debug=given, **more))
