"""`fm run --studio`: a pipeline that an org of a Studio has, run there and shown here as if it ran here."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, contextmanager
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from flowmason.cli import console

if TYPE_CHECKING:
    from flowmason.assembly.outcome import RunResult
    from flowmason.assembly.picture import RunPicture
    from flowmason.cli.live import LiveModel
    from flowmason.cli.running import Show
    from flowmason.event import Recorded
    from flowmason.ids import RunId
    from flowmason.plan import Plan
    from flowmason.remote.client import StudioClient
    from flowmason.remote.following import Told
    from flowmason.report import Report


def run(name: str | None, alias: str | None, request: Mapping[str, Any], show: Show) -> int:
    """Submit a run by the pipeline's name, follow it, and print how it went. Returns the exit code.

    The first Ctrl-C cancels the run, the second does not wait for that. Raises what the Studio refuses.
    """
    from flowmason.cli.studio_org import opened
    from flowmason.errors import UsageError
    from flowmason.ids import Ids

    if name is None:
        raise UsageError("no pipeline is named", help="Name one that the org has: NAME or NAME@VERSION.")
    refuse(show, ray=request["address"], submit=request["submit"])
    org, client = opened(alias)
    with client, refused_as_here():
        options = {key: request[key] for key in ("provider", "max_concurrency") if request[key] is not None}
        if budget := {key: request[key] for key in ("max_cost", "max_tokens") if request[key] is not None}:
            options["budget"] = budget
        body = {"pipeline": name, "input": _input(client, name, request), "options": options}
        if request["forecast"]:
            _foretell(client, body)
        # A request that is sent again, because its answer was lost, starts no second run.
        key = Ids(time.time).command()
        accepted = client.request("POST", "/run", body=body, headers={"Idempotency-Key": key})
        label = console.paint(accepted["pipeline"], "bold")
        show.say(f"{label}@{accepted['version']} in {org.alias}: {accepted['id']}")
        return followed(client, accepted, show, alias=org.alias, timeout_s=request["timeout"])


def followed(
    client: StudioClient,
    detail: Mapping[str, Any],
    show: Show,
    *,
    alias: str,
    timeout_s: float | None = None,
    own: bool = True,
) -> int:
    """Follow a run until it ends or is paused, and print how it went; returns the exit code.

    `detail`: the run as the Studio tells it. `own`: Ctrl-C cancels it; else it only ends the watching.
    """
    from flowmason.assembly.outcome import unfinished
    from flowmason.cli.running import finish, say_again
    from flowmason.errors import EngineUnavailableError

    began = time.monotonic()
    run_id = detail["id"]
    watch = f"fm runs watch {run_id} -t {alias}"
    try:
        with console.stdout_kept():
            console.run_async(_follow(client, detail, show, timeout_s, own))
        outcome = outcome_of(client, run_id, whole=not show.json)
    except EngineUnavailableError as error:
        if show.json:
            console.print_json(unfinished(detail["pipeline"], error, "studio", run_id))
        console.print_error(error)
        say_again(watch)
        return console.UNAVAILABLE
    resumable = outcome.status in ("failed", "paused")
    again = f"fm resume {run_id} --target-org {alias}" if resumable else watch
    return finish(outcome, show, time.monotonic() - began, again=again)


def outcome_of(client: StudioClient, run_id: str, *, whole: bool = False) -> RunResult:
    """How a run went, as the Studio tells it. `whole`: a large output is fetched, too."""
    import msgspec

    from flowmason.assembly.outcome import BLOB, result_from

    detail = client.get(f"/runs/{quote(run_id, safe='')}")
    outcome = result_from({**detail, "run_id": detail["id"], "executor": "studio"})
    output = outcome.output
    if whole and isinstance(output, dict) and set(output) == {BLOB, "type", "size"}:
        value = client.get(f"/runs/{quote(run_id, safe='')}/values/{quote(output[BLOB], safe=':')}")
        outcome = msgspec.structs.replace(outcome, output=value)
    return outcome


def refuse(show: Show, **given: Any) -> None:
    """Refuse options that mean nothing in a Studio. Raises `UsageError`."""
    from flowmason.errors import UsageError

    for option, item in {"items": show.items, **given}.items():
        if item:
            raise UsageError(f"--{option.replace('_', '-')} does not go with --studio")


@contextmanager
def refused_as_here() -> Iterator[None]:
    """What a Studio refuses because it makes no sense there ends with the exit code that it has here."""
    from flowmason.errors import UsageError
    from flowmason.remote.client import RemoteError

    try:
        yield
    except RemoteError as error:
        if error.status not in (400, 404, 409, 413, 422):
            raise
        failure = error.failure
        raise UsageError(failure.message, code=failure.code, help=failure.help) from error


def _foretell(client: StudioClient, body: Mapping[str, Any]) -> None:
    """Tell what the run may use, before it is submitted."""
    import sys

    from flowmason.cli import forecast_told

    options = {key: item for key, item in body["options"].items() if key != "max_concurrency"}
    found = client.request("POST", "/run/forecast", body={**body, "options": options})
    forecast_told.print_forecast(found, sys.stderr)


def _input(client: StudioClient, name: str, request: Mapping[str, Any]) -> dict[str, Any] | None:
    from flowmason.cli.given import Blobs, read_input
    from flowmason.remote.deploying import sample_in_org

    given = request["input"] is not None or request["input_file"] is not None or request["assignments"]
    if not given and not request["sample"]:
        return None
    blobs = Blobs()
    found = read_input(
        request["input"],
        request["input_file"],
        sample=request["sample"],
        sample_input=sample_in_org(client, name) if request["sample"] else None,
        assignments=request["assignments"],
        blobs=blobs,
    )
    for content in blobs.contents():
        client.send("POST", "/blobs", content=content)
    return found


class _There:
    """A run in a Studio, as Ctrl-C steers it."""

    def __init__(self, client: StudioClient) -> None:
        self._client = client
        self.left = asyncio.Event()

    async def command(self, run_id: RunId, name: str, **arguments: Any) -> None:
        """Tell the run something; that it has ended by now is no matter."""
        from flowmason.errors import Code, FlowMasonError

        path = f"/runs/{quote(run_id, safe='')}/{name}"
        try:
            await asyncio.to_thread(self._client.request, "POST", path, body=arguments)
        except FlowMasonError as error:
            if error.failure.code != Code.CONFLICT:
                console.print_error(error)

    def leave(self, *, withdraw: bool = False) -> None:
        """Let the run go on without us; what was asked of it stays asked."""
        self.left.set()


async def _follow(
    client: StudioClient, detail: Mapping[str, Any], show: Show, timeout_s: float | None, own: bool
) -> None:
    """Draw the run until it ends, is paused, or is left."""
    from flowmason.cli.live import LiveModel
    from flowmason.cli.running import Signals, feeds_of
    from flowmason.ids import RunId

    run_id = RunId(detail["id"])
    there, signals = _There(client), Signals(show)
    async with AsyncExitStack() as stack:
        if own:
            stack.enter_context(signals.caught())
            signals.attach(there, run_id, "leaves that to the Studio")
        if timeout_s is not None:
            timer = asyncio.create_task(_cancel_later(there, run_id, timeout_s))
            stack.callback(timer.cancel)
        model = LiveModel(await asyncio.to_thread(_plan, client, run_id, detail["plan"]), run_id)
        feeds, view = feeds_of(model, show)
        if view is not None:
            await stack.enter_async_context(view)
        reading = asyncio.ensure_future(_read(client, run_id, model, feeds))
        leaving = asyncio.ensure_future(there.left.wait())
        try:
            await asyncio.wait((reading, leaving), return_when=asyncio.FIRST_COMPLETED)
            if reading.done():
                reading.result()
        finally:
            for task in (reading, leaving):
                task.cancel()
            await asyncio.gather(reading, leaving, return_exceptions=True)


async def _cancel_later(there: _There, run_id: RunId, timeout_s: float) -> None:
    await asyncio.sleep(timeout_s)
    await there.command(run_id, "cancel", reason=f"it took longer than {timeout_s:g} s")


async def _read(client: StudioClient, run_id: RunId, model: LiveModel, feeds: Sequence[Any]) -> None:
    """Feed what happens as it happens."""
    from flowmason.event import RunPaused
    from flowmason.remote.following import live

    async for told in live(client, run_id, side=bool(feeds)):
        recorded = _recorded(told)
        await asyncio.to_thread(_learn, client, run_id, model.picture, recorded)
        for feed in feeds:
            feed.beside(run_id, _beside(told))
            feed.committed(run_id, recorded)
        if any(isinstance(each.event, RunPaused) for each in recorded):
            now = await asyncio.to_thread(client.get, f"/runs/{quote(run_id, safe='')}")
            if now["status"] == "paused":
                return


def _recorded(told: Sequence[Told]) -> list[Recorded]:
    from flowmason.assembly.readable import recorded_from

    return [recorded_from(each.data) for each in told if each.kind == "event"]


def _beside(told: Sequence[Told]) -> Report:
    """Log lines and streamed text. A `reset` needs no telling: the next attempt's text replaces the earlier one's."""
    from flowmason.ids import parse_path
    from flowmason.report import Delta, LogLine, Report

    logs, deltas = [], []
    for each in told:
        data = each.data
        if each.kind == "log":
            names = ("attempt", "n", "at", "level", "message", "fields")
            logs.append(LogLine(parse_path(data["path"]), **{name: data[name] for name in names}))
        elif each.kind == "delta":
            deltas.append(Delta(parse_path(data["path"]), data["attempt"], data["n"], data["text"]))
    return Report("", logs=tuple(logs), deltas=tuple(deltas))


def _plan(client: StudioClient, run_id: str, plan_id: str | None) -> Plan | None:
    """A Plan of the run; None where it cannot be had: the run is drawn without it."""
    from flowmason.errors import EngineUnavailableError, FlowMasonError
    from flowmason.ids import PlanId
    from flowmason.plan import decode

    if plan_id is None:
        return None
    try:
        plan = decode(client.send("GET", f"/runs/{quote(run_id, safe='')}/plans/{quote(plan_id, safe=':')}").content)
    except EngineUnavailableError:
        raise
    except FlowMasonError:
        return None
    plan.__dict__["id"] = PlanId(plan_id)
    return plan


def _learn(client: StudioClient, run_id: str, picture: RunPicture, recorded: Sequence[Recorded]) -> None:
    """Make the Plans of sub-pipelines that were resolved at run time known to the picture."""
    from flowmason.event import StageExpanded

    for each in recorded:
        event = each.event
        if isinstance(event, StageExpanded) and event.plan is not None and not picture.knows(event.plan):
            plan = _plan(client, run_id, event.plan)
            if plan is not None:
                picture.learn(plan)
