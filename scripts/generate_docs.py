"""Writes the reference tables of docs/ from the code: between `<!-- generated: NAME -->` and `<!-- end -->`.

python scripts/generate_docs.py            write them
python scripts/generate_docs.py --check    exit with 1 if a page is not as it would be written
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

DOCS = Path(__file__).resolve().parent.parent / "docs"
_REGION = re.compile(r"(<!-- generated: ([a-z-]+) -->\n).*?(<!-- end -->)", re.DOTALL)

EXIT_CODES = {
    "OK": "completed, or nothing to complain about",
    "FAILED": "the run failed, a test failed, or something broke on the way",
    "REFUSED": "refused: a wrong file, input or command line; nothing was run",
    "CANCELLED": "the run was cancelled",
    "UNAVAILABLE": "the engine is not available: Ray, a database or an extra is not there",
    "INTERRUPTED": "interrupted; the run can be resumed",
}

CODES = {
    "INVALID_DOCUMENT": "A file cannot be read, or says something that makes no sense; each fault has its place.",
    "INVALID_INPUT": "The input of a run or of a stage is not what its schema wants.",
    "INVALID_OUTPUT": "A component or a pipeline gave what its schema does not allow.",
    "VALIDATION": "`schema_validate` in strict mode found data that does not fit.",
    "EXPRESSION": "A template or condition cannot be parsed or evaluated.",
    "EXECUTION": "A component raised an error of no other kind.",
    "TIMEOUT": "Something took longer than it was given.",
    "CONNECTIVITY": "Somebody could not be reached, or the line broke; a model provider may be left alone after that.",
    "RATE_LIMITED": "A provider asked to wait, also of another call that came before, or the account there is used up.",
    "PROVIDER": "A model provider refused the request or answered badly.",
    "NO_PROVIDER": "No model provider is configured, or its key is not set. Answers are never made up.",
    "BAD_ANSWER": "The model's answer did not fit its schema, even after two repairs.",
    "TOOL_STEPS_EXCEEDED": "The model called tools until its steps were used up, and gave no answer.",
    "SECURITY": "Somebody did not accept our key, or something is not allowed.",
    "EGRESS_DENIED": "The egress guard refused an outgoing call.",
    "SECRET_MISSING": "A secret that the component declares is not set.",
    "CANCELLED": "The run, or the part that the stage belongs to, was cancelled.",
    "LOST": "The worker died, more often than the budget for that allows (3).",
    "OUTCOME_UNKNOWN": "An unsafe effect was under way when its worker or its answer was lost: it may have happened.",
    "COMPONENT_MISSING": "There is no such component, or it cannot be loaded.",
    "COMPONENT_CHANGED": "The code of a component is not the code that the run began with.",
    "INFEASIBLE_RESOURCES": "No machine has what the stage asks for.",
    "RESOURCE_EXHAUSTED": "Memory, or a limit on sizes, is used up.",
    "VALUE_MISSING": "A stored value is not in the store any more.",
    "BUDGET_EXCEEDED": "A stage's model calls do not fit in what may be spent; `details` hold the limit, what was "
    "spent, what is reserved and what is needed.",
    "CONTEXT_EXCEEDED": "A prompt and the answer that was asked for are longer than the model takes at once.",
    "PRICE_UNKNOWN": "A model without a known price was to be asked under a budget in dollars; it was not.",
    "PIPELINE_NOT_FOUND": "There is no such pipeline, or the name fits several.",
    "PIPELINE_DEPTH": "Sub-pipelines are nested more than 20 deep.",
    "RETURNED_FAILED": "A `return` ended the pipeline with status `failed`.",
    "NOT_SUPPORTED": "A known key or option whose feature is not built yet.",
    "USAGE": "The request itself makes no sense.",
    "NOT_FOUND": "There is no such run, file or page.",
    "CONFLICT": "What is there does not allow it: somebody else changed it, or it has not ended yet.",
    "UNAUTHENTICATED": "There is no valid credential: no key or token, or one that is wrong, expired or revoked.",
    "FORBIDDEN": "The caller's role, or the scope of the API key, does not allow it.",
    "PRECONDITION_REQUIRED": "A write to a pipeline came without the `If-Match` that says what it is based on.",
    "UNSUPPORTED_MEDIA_TYPE": "A body of a kind that is not read there.",
    "QUEUE_FULL": "As many runs of the org wait already as its limit allows.",
    "ENGINE_UNAVAILABLE": "Something that the run needs to run on is not there.",
    "FENCED": "Another conductor owns the run now.",
    "FORMAT_TOO_NEW": "Written by a newer FlowMason; it can be read but not driven.",
    "STORAGE": "The journal or the value store refused.",
    "INTERNAL": "A fault in FlowMason itself.",
}


def pages() -> dict[Path, str]:
    """Every page with generated parts, as it should be."""
    found = {}
    for path in sorted(DOCS.glob("*.md")):
        text = path.read_text(encoding="utf-8")
        if _REGION.search(text):
            found[path] = _REGION.sub(lambda match: f"{match[1]}{PARTS[match[2]]().strip()}\n{match[3]}", text)
    return found


# -- the command line ----------------------------------------------------------------------------


def exit_codes() -> str:
    from flowmason.cli import console

    rows = [f"| {getattr(console, name)} | {meaning} |" for name, meaning in EXIT_CODES.items()]
    return "\n".join(["| code | meaning |", "| --- | --- |", *rows])


def commands() -> Iterator[tuple[str, Any]]:
    """Every command of `fm` by its whole name, groups included."""
    import typer

    from flowmason.cli.app import app

    root: Any = typer.main.get_command(app)
    for name in root.list_commands(None):
        command = root.get_command(None, name)
        yield f"fm {name}", command
        for inner, sub in getattr(command, "commands", {}).items():
            yield f"fm {name} {inner}", sub


def command_line() -> str:
    parts = []
    for name, command in commands():
        parts += [f"### {name}", "", _help(command.help or ""), ""]
        arguments = [param for param in command.params if param.param_type_name == "argument"]
        options = [param for param in command.params if param.param_type_name == "option" and param.name != "help"]
        rows = [f"| `{_cell(param.metavar or param.name.upper())}` | {_cell(param.help)} |" for param in arguments]
        rows += [f"| {_flags(param)} | {_cell(param.help)}{_default(param)} |" for param in options]
        if rows:
            parts += ["| | |", "| --- | --- |", *rows, ""]
    return "\n".join(parts)


def _help(text: str) -> str:
    body, _, examples = text.replace("\b", "").partition("\nExamples:")
    body = "\n\n".join(" ".join(part.split()) for part in body.split("\n\n")).strip()
    lines = [line.strip() for line in examples.strip().splitlines() if line.strip()]
    return body + ("\n\n```sh\n" + "\n".join(lines) + "\n```" if lines else "")


def _flags(param: Any) -> str:
    value = (
        "" if param.is_flag else param.metavar or ("N" if "int" in str(param.type_descriptor.annotation) else "TEXT")
    )
    value = value if not value or value.startswith("[=") else f" {value}"
    return ", ".join(f"`{_cell(flag + value)}`" for flag in [*param.opts, *param.secondary_opts])


def _default(param: Any) -> str:
    default = param.default
    if param.is_flag or default is None or callable(default) or default in ((), [], ""):
        return ""
    shown = getattr(default, "value", default)
    environ = f"; environment: `{param.envvar}`" if param.envvar else ""
    return f" (default: {shown}{environ})"


# -- components ----------------------------------------------------------------------------------


def component_list() -> str:
    rows = ["| component | kind | what it does |", "| --- | --- | --- |"]
    rows += [f"| [{s.name}](#{s.name}) | {s.kind.replace('_', ' ')} | {_cell(s.description)} |" for s in _specs()]
    return "\n".join(rows)


def component_reference() -> str:
    parts = []
    for spec in _specs():
        effect = str(spec.effect)
        if spec.effect_by is not None:
            by: dict[str, list[str]] = {}
            for value, each in spec.effect_by.map.items():
                by.setdefault(str(each), []).append(value)
            named = "; ".join(f"{each} for {', '.join(values)}" for each, values in by.items())
            effect = f"by `{spec.effect_by.field}`: {named}; otherwise {spec.effect_by.default}"
        facts = [f"effect: {effect}", f"timeout: {spec.timeout_ms / 1000:g} s", f"retries: {spec.retry.max_retries}"]
        parts += [f"### {spec.name}", "", spec.description, "", " · ".join(facts), ""]
        parts += [*_fields(spec.input_schema, "input", True), "", *_fields(spec.output_schema, "output", False), ""]
    return "\n".join(parts)


def _specs() -> list[Any]:
    from flowmason.component import spec_of
    from flowmason.lab import COMPONENTS

    return [spec_of(component) for component in COMPONENTS]


def _fields(schema: dict[str, Any], head: str, inputs: bool) -> Iterator[str]:
    yield f"| {head} | type |{' default |' if inputs else ''} |"
    yield f"| --- | --- |{' --- |' if inputs else ''} --- |"
    required = schema.get("required", ())
    for name, field in schema.get("properties", {}).items():
        default = ""
        if inputs:
            told = "required" if name in required else f"`{json.dumps(field.get('default'), ensure_ascii=False)}`"
            default = f" {told} |"
        yield f"| `{name}` | {_type(field)} |{default} {_cell(field.get('description', ''))}{_bounds(field)} |"


def _type(field: dict[str, Any]) -> str:
    if "enum" in field:
        return ", ".join(f"`{value}`" for value in field["enum"])
    if "const" in field:
        return f"`{field['const']}`"
    if "anyOf" in field:
        return " or ".join(dict.fromkeys(_type(each) for each in field["anyOf"]))
    kind = field.get("type", "anything")
    if kind == "array":
        inner = _type(field.get("items", {}))
        return "list" if inner == "anything" else f"list of {inner}"
    return str(kind)


def _bounds(field: dict[str, Any]) -> str:
    low, high = field.get("minimum"), field.get("maximum")
    if low is None and high is None:
        return ""
    words = (
        f"{low:,} to {high:,}" if None not in (low, high) else f"at least {low:,}" if high is None else f"≤ {high:,}"
    )
    return f" ({words})"


# -- pipeline files ------------------------------------------------------------------------------


def _keys(record: Any) -> str:
    rows = ["| key | value | |", "| --- | --- | --- |"]
    for name, key in record.keys.items():
        others = "".join(f", `{other}`" for other in key.also)
        told = f"{'required. ' if key.required else ''}{key.doc}"
        rows.append(f"| `{name}`{others} | {_cell(key.shape.expected)} | {_cell(told)} |")
    return "\n".join(rows)


def pipeline_keys() -> str:
    from flowmason.pipeline.keys import PIPELINE

    return _keys(PIPELINE)


def stage_keys() -> str:
    from flowmason.pipeline.keys import STAGE

    return _keys(STAGE)


def composition_keys() -> str:
    from flowmason.pipeline.keys import COMPOSITION

    return _keys(COMPOSITION)


def llm_keys() -> str:
    from flowmason.pipeline.keys import LLM_SETTINGS

    return _keys(LLM_SETTINGS)


def retry_keys() -> str:
    from flowmason.pipeline.keys import RETRY

    return _keys(RETRY)


def control_spellings() -> str:
    from flowmason.pipeline.spellings import CONTROL_SPELLINGS

    rows = ["| component | also written | for |", "| --- | --- | --- |"]
    for component, spellings in CONTROL_SPELLINGS.items():
        rows += [f"| `{component}` | `{other}` | `{name}` |" for other, name in spellings.items()]
    return "\n".join(rows)


# -- errors --------------------------------------------------------------------------------------


def error_codes() -> str:
    from flowmason.errors import Code

    return "\n".join(["| code | meaning |", "| --- | --- |", *(f"| `{code}` | {CODES[code]} |" for code in Code)])


def error_classes() -> str:
    import flowmason.errors as errors

    drawn = (errors.__doc__ or "").split("\n\n")[1]
    return "```text\n" + "\n".join(line.removeprefix("    ") for line in drawn.splitlines()) + "\n```"


# -- models --------------------------------------------------------------------------------------


def providers() -> str:
    import flowmason.providers as providers

    rows = ["| provider | address | model | key from |", "| --- | --- | --- | --- |"]
    for name, known in providers._KNOWN.items():
        where = known.base_url or {"llamacpp": "in the process", "mock": "in the process"}.get(name, "`base_url`")
        model = known.model or {"llamacpp": "SmolLM2-135M-Instruct", "mock": "mock-1"}.get(name, "`model`")
        keys = " or ".join(f"`{key}`" for key in known.key_env) or "none needed"
        rows.append(f"| `{name}` | {where} | {model} | {keys} |")
    return "\n".join(rows)


def _cell(text: Any) -> str:
    return " ".join(str(text or "").split()).replace("|", "\\|")


PARTS: dict[str, Callable[[], str]] = {
    "exit-codes": exit_codes,
    "command-line": command_line,
    "component-list": component_list,
    "component-reference": component_reference,
    "pipeline-keys": pipeline_keys,
    "stage-keys": stage_keys,
    "composition-keys": composition_keys,
    "llm-keys": llm_keys,
    "retry-keys": retry_keys,
    "control-spellings": control_spellings,
    "error-codes": error_codes,
    "error-classes": error_classes,
    "providers": providers,
}


def main() -> int:
    stale = [path for path, text in pages().items() if path.read_text(encoding="utf-8") != text]
    if "--check" in sys.argv:
        for path in stale:
            print(f"{path}: not current; run python scripts/generate_docs.py", file=sys.stderr)
        return 1 if stale else 0
    for path in stale:
        path.write_text(pages()[path], encoding="utf-8")
        print(f"wrote {path}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
