"""`fm info`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from flowmason.cli import console

if TYPE_CHECKING:
    from flowmason.assembly.workspace import Compiled, Source, Workspace
    from flowmason.component import ComponentSpec
    from flowmason.plan import Plan, Stage

_TYPES = {"array": "list", "object": "object", "string": "text"}


def info(
    name: Annotated[
        str, typer.Argument(metavar="PIPELINE|COMPONENT", help="A pipeline's file or name, or a component.")
    ],
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout.")] = False,
    inheritance: Annotated[bool, typer.Option("--inheritance", help="Only what the pipeline extends.")] = False,
) -> None:
    """Describe a pipeline (its stages as they may run) or a component (what it takes and gives).

    Examples:
      fm info triage
      fm info triage --inheritance
      fm info http_request --json
    """
    from flowmason.assembly.workspace import Workspace

    workspace = Workspace.at(name)
    path, spec = _find(name, workspace)
    if spec is not None:
        found = _component(spec)
        console.print_json(found) if as_json else _print_component(found)
        return
    source = workspace.source(path)
    if inheritance:
        chain = _chain(source, workspace)
        console.print_json({"pipeline": source.written.reference, "chain": chain}) if as_json else _print_chain(chain)
        return
    if source.pipeline.abstract:
        found = _abstract(source, workspace)
        console.print_json(found) if as_json else _print_abstract(found)
        return
    compiled = workspace.compile(path)
    found = _pipeline(compiled, workspace)
    console.print_json(found) if as_json else _print_pipeline(found, compiled.plan)


def _find(name: str, workspace: Workspace) -> tuple[Any, ComponentSpec | None]:
    from flowmason.errors import UsageError, did_you_mean

    try:
        return workspace.find(name), None
    except UsageError as error:
        spec = workspace.registry.get(name)
        if spec is not None:
            return None, spec
        pipelines = [entry.name for entry in workspace.project.pipelines()]
        near = did_you_mean(name, [*pipelines, *workspace.registry])
        if near is None:
            raise
        raise UsageError(f"there is no pipeline or component {name!r}; did you mean {near!r}?") from error


# -- pipelines ---------------------------------------------------------------------------------------


def _pipeline(compiled: Compiled, workspace: Workspace) -> dict[str, Any]:
    from flowmason.assembly.workspace import shown
    from flowmason.compiler import explain

    plan, source = compiled.plan, compiled.source
    return {
        "name": plan.name,
        "version": plan.version,
        "path": shown(source.path),
        "description": source.pipeline.description,
        "plan": plan.id,
        "input_schema": plan.input_schema,
        "output_schema": plan.output_schema,
        "sample_input": compiled.sample_input,
        "output_stage": plan.output_stage,
        "max_concurrency": plan.max_concurrency,
        "waves": explain(plan),
        "stages": [
            _stage(stage)
            for stage in sorted(plan.stages.values(), key=lambda stage: stage.index)
            if stage.kind != "output"
        ],
        "components": {
            name: {"version": ref.version, "digest": ref.digest, "package": ref.package}
            for name, ref in sorted(plan.components.items())
        },
        "pipelines": sorted(f"{each.name}@{each.version}" for each in plan.plans.values()),
        "extends": [item["reference"] for item in _chain(source, workspace)][1:],
    }


def _stage(stage: Stage) -> dict[str, Any]:
    return {
        "id": stage.id,
        "component": stage.component,
        "kind": str(stage.kind),
        "needs": list(stage.needs),
        "reads": list(stage.reads),
        "when": [{"guard": arm.guard, "choices": list(arm.choices)} for arm in stage.arms],
        "effect": str(stage.effect),
        "timeout_ms": stage.body_timeout_ms or stage.timeout_ms,
        "max_retries": stage.retry.max_retries,
        "body": [[inner.id for inner in scope.stages] for scope in stage.scopes],
    }


def _print_pipeline(found: dict[str, Any], plan: Plan) -> None:
    print(f"{console.paint(found['name'], 'bold', stream=_out())}@{found['version']}  {found['path']}")
    if found["description"]:
        print(f"  {found['description']}")
    for title, schema in (("input", found["input_schema"]), ("output", found["output_schema"])):
        fields = _fields(schema)
        if fields:
            print(f"  {title}: {', '.join(fields)}")
    if found["extends"]:
        print(f"  extends: {' ← '.join(found['extends'])}")
    print(f"  plan: {found['plan']}")
    print()
    width = max((len(stage["id"]) for stage in found["stages"]), default=0) + 4
    for number, wave in enumerate(found["waves"], 1):
        for position, name in enumerate(wave):
            label = f"{number:>3} " if position == 0 else "    "
            _draw(plan.stages[name], label, 0, width)
    print()
    count, waves = len(found["stages"]), len(found["waves"])
    stages = f"{count} stage{'' if count == 1 else 's'} in {waves} wave{'' if waves == 1 else 's'}"
    print(f"{stages}; a stage starts when its own inputs are there")


def _draw(stage: Stage, label: str, depth: int, width: int) -> None:
    marks = {"foreach": "⟳", "trycatch": "⛨", "conditional": "◇", "router": "◇", "subpipeline": "▣", "return": "⏎"}
    mark = marks.get(str(stage.kind), "●" if stage.effect != "pure" else "○")
    needs = f"← {', '.join(stage.needs)}" if stage.needs else ""
    when = "".join(f" when {arm.guard} is {' or '.join(arm.choices)}" for arm in stage.arms)
    name = "  " * depth + f"{mark} {stage.id}"
    print(f"{console.paint(label, 'dim', stream=_out())}{name:<{width}}  {stage.component:<18} {needs}{when}".rstrip())
    roles = ("try", "catch", "finally") if len(stage.scopes) == 3 else ("",)
    for role, scope in zip(roles, stage.scopes, strict=False):
        if role and scope.stages:
            print("    " + "  " * (depth + 1) + console.paint(role, "dim", stream=_out()))
        for inner in sorted(scope.stages, key=lambda one: one.index):
            _draw(inner, "    ", depth + 1, width)


def _fields(schema: dict[str, Any]) -> list[str]:
    required = schema.get("required") or ()
    found = []
    for name, field in (schema.get("properties") or {}).items():
        kind = field.get("type") if isinstance(field, dict) else None
        words = [_TYPES.get(kind, kind) if isinstance(kind, str) else "any"]
        if isinstance(field, dict) and "default" in field:
            words.append(f"default {console.to_json(field['default'], indent=0)}")
        found.append(f"{name}{'*' if name in required else ''} ({', '.join(words)})")
    return found


# -- inheritance -------------------------------------------------------------------------------------


def _chain(source: Source, workspace: Workspace) -> list[dict[str, Any]]:
    from flowmason.inherit import chain

    return [
        {
            "reference": each.reference,
            "abstract": each.abstract,
            "stages": [stage.id for stage in each.stages],
            "overrides": sorted(each.overrides),
        }
        for each in chain(source.written, workspace.written)
    ]


def _print_chain(chain: list[dict[str, Any]]) -> None:
    for depth, item in enumerate(chain):
        mark = "" if depth == 0 else "   " * (depth - 1) + "└─ "
        words = [f"{len(item['stages'])} stages"]
        if item["overrides"]:
            words.append(f"overrides {', '.join(item['overrides'])}")
        if item["abstract"]:
            words.append("abstract")
        print(f"{mark}{item['reference']}  ({'; '.join(words)})")


def _abstract(source: Source, workspace: Workspace) -> dict[str, Any]:
    from flowmason.assembly.workspace import shown

    pipeline = source.pipeline
    return {
        "name": pipeline.name,
        "version": pipeline.version,
        "path": shown(source.path),
        "abstract": True,
        "description": pipeline.description,
        "stages": [{"id": stage.id, "component": stage.component} for stage in pipeline.stages],
        "extends": [item["reference"] for item in _chain(source, workspace)][1:],
    }


def _print_abstract(found: dict[str, Any]) -> None:
    print(f"{found['name']}@{found['version']}  {found['path']}  (abstract: it is there to be extended)")
    for stage in found["stages"]:
        print(f"  {stage['id']}  {stage['component']}")


# -- components --------------------------------------------------------------------------------------


def _component(spec: ComponentSpec) -> dict[str, Any]:
    from flowmason.cli.listing import origin

    return {**spec.manifest(), "id": spec.id, "from": origin(spec), "digest": spec.digest}


def _print_component(found: dict[str, Any]) -> None:
    from flowmason.cli.tables import print_table

    name = console.paint(found["name"], "bold", stream=_out())
    print(f"{name}@{found.get('version', '1.0.0')}  {found['kind']}, {found['from']}")
    if found.get("description"):
        print(f"  {found['description']}")
    facts = [f"effect: {found.get('effect', 'pure')}", f"timeout: {found.get('timeout_ms', 30_000) / 1000:g} s"]
    for key in ("secrets", "models", "hosts"):
        if found.get(key):
            facts.append(f"{key}: {', '.join(found[key])}")
    print("  " + ", ".join(facts))
    for title in ("input", "output"):
        schema = found.get(f"{title}_schema") or {}
        print(f"\n{title}")
        required = schema.get("required") or ()
        rows = [
            [
                name + ("*" if name in required else ""),
                _type(field, schema),
                _default(field),
                " ".join(str(field.get("description", "")).split()),
            ]
            for name, field in (schema.get("properties") or {}).items()
        ]
        print_table((), rows, indent="  ")
        if not rows:
            print("  (anything)")


def _type(field: dict[str, Any], schema: dict[str, Any]) -> str:
    if "$ref" in field:
        return str(field["$ref"]).rpartition("/")[2]
    if "enum" in field:
        return " | ".join(console.to_json(item, indent=0) for item in field["enum"])
    kinds = [_type(option, schema) for option in field.get("anyOf", ())]
    if kinds:
        return " | ".join(kinds)
    kind = field.get("type", "any")
    if kind == "array" and isinstance(field.get("items"), dict):
        return f"list of {_type(field['items'], schema)}"
    return _TYPES.get(kind, kind) if isinstance(kind, str) else "any"


def _default(field: dict[str, Any]) -> str:
    return f"= {console.to_json(field['default'], indent=0)}" if "default" in field else ""


def _out() -> Any:
    import sys

    return sys.stdout
