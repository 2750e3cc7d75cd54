"""`fm run`."""

from __future__ import annotations

import time
from contextlib import AsyncExitStack
from typing import Annotated, Any

import typer

from flowmason.cli import console


def run(
    path: Annotated[
        str | None,
        typer.Argument(
            metavar="PIPELINE", help="A file, or a pipeline's name in the project. Default: the project's main."
        ),
    ] = None,
    input: Annotated[str | None, typer.Option("--input", "-i", metavar="JSON", help="The input, as JSON.")] = None,
    input_file: Annotated[
        str | None,
        typer.Option("--input-file", "-f", metavar="FILE", help="The input from a JSON or YAML file (-: stdin)."),
    ] = None,
    set_: Annotated[
        list[str] | None,
        typer.Option(
            "--set", metavar="K=V", help="Set one field: a.b=JSON, or name=@file for a file's bytes. Repeatable."
        ),
    ] = None,
    sample: Annotated[
        bool, typer.Option("--sample", "-s", help="Use the pipeline's sample_input (also where nothing is given).")
    ] = False,
    on: Annotated[str, typer.Option("--on", envvar="FLOWMASON_ON", metavar="EXECUTOR", help="ray or local.")] = "ray",
    ray: Annotated[str | None, typer.Option("--ray", metavar="ADDRESS", help="Join this Ray cluster.")] = None,
    allow_open_ray: Annotated[bool, typer.Option(help="Use a Ray cluster although it asks for no token.")] = False,
    submit: Annotated[
        bool, typer.Option("--submit", help="Run it as a job of the cluster: upload the project, follow the log.")
    ] = False,
    studio: Annotated[
        bool, typer.Option("--studio", help="Run what an org of a Studio has under this name, there.")
    ] = False,
    target_org: Annotated[
        str | None, typer.Option("--target-org", metavar="ALIAS", help="With --studio: the org; else the default one.")
    ] = None,
    provider: Annotated[
        str | None, typer.Option("--provider", metavar="NAME", help="Model provider for stages that name none.")
    ] = None,
    max_concurrency: Annotated[int | None, typer.Option(min=1, help="How many stages may run at once.")] = None,
    max_cost: Annotated[
        str | None,
        typer.Option("--max-cost", metavar="DOLLARS", help="Spend no more than so many dollars on models: 0.50."),
    ] = None,
    max_tokens: Annotated[
        int | None, typer.Option("--max-tokens", min=1, help="Let models read and write no more tokens than so many.")
    ] = None,
    forecast: Annotated[
        bool, typer.Option("--forecast", help="First say what it may cost at worst, and what it usually costs.")
    ] = False,
    timeout: console.Timeout = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout.")] = False,
    items: Annotated[bool, typer.Option("--items", help="With --json: list the stages of foreach items, too.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Say nothing but the output and errors.")] = False,
    no_progress: Annotated[bool, typer.Option("--no-progress", help="Do not show the run while it runs.")] = False,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Show log lines, and tracebacks of errors.")] = False,
) -> None:
    """Run a pipeline and show it live.

    The output goes to stdout, everything else to stderr. Ctrl-C cancels the run; a second one leaves it to be
    resumed. Exit codes: 0 completed, 1 failed, 2 refused, 3 cancelled, 4 engine not available, 130 interrupted.

    Examples:
      fm run triage --sample --on local
      fm run pipelines/triage.pipeline.json -i '{"text": "printer on fire"}'
      fm run report --set doc=@scan.pdf --set options.pages=3 --json > result.json
      fm run triage --max-cost 0.50 --forecast
      fm run triage --submit
      fm run triage@1.2.0 --studio -i '{"text": "printer on fire"}'
    """
    from flowmason.cli.running import Show, stopped
    from flowmason.errors import FlowMasonError

    console.be_verbose(verbose)
    if ray is not None and on == "local":
        raise typer.BadParameter("--ray goes with --on ray", param_hint="--ray")
    show = Show(json=as_json, quiet=quiet, verbose=verbose, progress=not no_progress, items=items)
    request: dict[str, Any] = {
        "input": input,
        "input_file": input_file,
        "assignments": set_ or [],
        "sample": sample,
        "on": on,
        "address": ray,
        "allow_open": allow_open_ray,
        "provider": provider,
        "max_concurrency": max_concurrency,
        "max_cost": console.money(max_cost, "--max-cost"),
        "max_tokens": max_tokens,
        "timeout": timeout,
        "submit": submit,
        "forecast": forecast,
    }
    there = studio or target_org is not None
    if forecast and submit and not there:
        raise typer.BadParameter("--forecast does not go with --submit", param_hint="--forecast")
    try:
        if there:
            from flowmason.cli import remote_run

            code = remote_run.run(path, target_org, request, show)
        elif submit:
            from flowmason.cli import submitting

            code = submitting.submit(path, request, show)
        else:
            code = console.run_async(_run(path, request, show))
    except FlowMasonError as error:
        code = stopped(error, show, path or "", "studio" if there else on, request.get("run_id"))
    raise typer.Exit(code)


async def _run(path: str | None, request: dict[str, Any], show: Any) -> int:
    from flowmason.assembly.outcome import result
    from flowmason.assembly.running import opened, run_pipeline
    from flowmason.assembly.workspace import Workspace
    from flowmason.cli.given import Blobs, read_input
    from flowmason.cli.live import LiveModel
    from flowmason.cli.running import Signals, feeds_of, finish, remember_abandoned, walked
    from flowmason.policy import INLINE_LIMIT

    workspace = Workspace.at(path)
    wanted = path if path is not None else _main(workspace)
    compiled = workspace.compile(wanted)
    for fault in workspace.component_faults():
        show.say(f"{console.paint('warning', 'yellow')} {fault}")
    blobs = Blobs()
    given = read_input(
        request["input"],
        request["input_file"],
        sample=request["sample"],
        sample_input=compiled.sample_input,
        assignments=request["assignments"],
        blobs=blobs,
    )
    untouched = request["input"] is None and request["input_file"] is None and not request["sample"]
    _check(compiled.plan.input_schema, given, sample=untouched and compiled.sample_input is not None)
    options = {key: request[key] for key in ("provider", "max_concurrency")}
    options["budget"] = {key: request[key] for key in ("max_cost", "max_tokens") if request[key] is not None}
    model = LiveModel(compiled.plan)
    signals = Signals(show)
    begun_at = time.monotonic()
    with console.stdout_kept(), signals.caught():
        async with AsyncExitStack() as stack:
            feeds, view = feeds_of(model, show)
            stores, executor = await stack.enter_async_context(
                opened(
                    workspace,
                    on=request["on"],
                    address=request["address"],
                    allow_open=request["allow_open"],
                    provider=request["provider"],
                )
            )
            blobs.store(stores.values)
            await _foretell(workspace, compiled, stores, request, show, given)

            def begun(host: Any, run_id: Any) -> None:
                model.run_id = request["run_id"] = run_id
                signals.attach(host, run_id)
                name = console.paint(compiled.plan.name, "bold")
                show.say(f"{name}@{compiled.plan.version} on {executor.name}: {run_id}")

            async with AsyncExitStack() as drawn:
                if view is not None:
                    await drawn.enter_async_context(view)
                walking = run_pipeline(
                    workspace,
                    compiled,
                    given,
                    stores=stores,
                    executor=executor,
                    options=options,
                    feeds=feeds,
                    on_start=begun,
                    timeout_s=request["timeout"],
                    items=show.items,
                )
                picture, lost = await walked(walking, stores, request, show)
            limit = INLINE_LIMIT if show.json else None
            outcome = result(picture, stores.values, executor=executor.name, items=show.items, limit=limit)
        remember_abandoned(executor, show)
    return finish(outcome, show, time.monotonic() - begun_at, lost)


async def _foretell(
    workspace: Any, compiled: Any, stores: Any, request: dict[str, Any], show: Any, given: dict[str, Any]
) -> None:
    """Tell what the run may cost: all of it where asked for, a line where it is under a budget and somebody looks."""
    import sys

    budget = {key: request[key] for key in ("max_cost", "max_tokens") if request[key] is not None}
    if not request["forecast"] and (show.quiet or not budget or not sys.stderr.isatty()):
        return
    from flowmason.assembly.forecasting import forecast
    from flowmason.cli import forecast_told

    found = await forecast(
        workspace, compiled, stores.journal, budget=budget, provider=request["provider"], given=given
    )
    if request["forecast"]:
        forecast_told.print_forecast(found, sys.stderr)
    else:
        console.say(forecast_told.line(found))


def _main(workspace: Any) -> str:
    from flowmason.errors import UsageError

    if workspace.project.main is None:
        raise UsageError("no pipeline is named", help="Name one: `fm list pipelines` shows those there are.")
    return str(workspace.project.root / workspace.project.main)


def _check(schema: dict[str, Any], given: dict[str, Any], *, sample: bool) -> None:
    """Refuse a wrong input before anything is started for it. `sample`: there is one that was not asked for."""
    import msgspec

    from flowmason.errors import RefusedError
    from flowmason.inputs import prepare_input

    try:
        prepare_input(schema, given)
    except RefusedError as error:
        if sample:
            meant = "--set alone starts from an empty input; add --sample to start from the pipeline's sample_input."
            error.failure = msgspec.structs.replace(error.failure, help=meant)
        raise
