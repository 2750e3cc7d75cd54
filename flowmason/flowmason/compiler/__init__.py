"""Pipeline in, Plan out: references resolved to edges, bodies to scopes, everything checked before anything runs.

Pure: no I/O, no clock. Other pipelines and components are looked up through what the caller hands in.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from flowmason.compiler.assemble import OUTPUT, assemble
from flowmason.compiler.bindings import Parser
from flowmason.compiler.bodies import attach_bodies, attach_branches
from flowmason.compiler.checks import check_output, check_stage
from flowmason.compiler.draft import Work
from flowmason.compiler.faults import Faults
from flowmason.compiler.front import read_stages
from flowmason.compiler.links import link
from flowmason.compiler.order import sort_scopes
from flowmason.compiler.outputs import Outputs
from flowmason.compiler.subplans import Chain, attach_plans
from flowmason.compiler.variables import attach_variables
from flowmason.compiler.waves import explain
from flowmason.component import ComponentSpec
from flowmason.errors import Fault, RefusedError
from flowmason.inherit import Find, merge
from flowmason.plan import Plan
from flowmason.prompt import Prompt

if TYPE_CHECKING:
    from flowmason.pipeline import Pipeline, Sketch

__all__ = ["OUTPUT", "compile_pipeline", "explain", "survey_pipeline"]


def compile_pipeline(
    pipeline: Pipeline,
    specs: Mapping[str, ComponentSpec],
    *,
    find: Callable[[str], Pipeline] | None = None,
    env: Sequence[str] = (),
    prompts: Mapping[str, Prompt] | None = None,
) -> Plan:
    """Compile a resolved pipeline (no `extends`, no `compositions` left).

    `specs` finds a component by its name (snake case) and may load lazily. `find` finds another pipeline by
    `name` or `name@version`; it may raise `LookupError` or any `FlowMasonError`. `env` are the names that
    `env.` may read. `prompts` finds a prompt by its name; like `specs` it may load lazily, and raise. Raises
    `RefusedError` with everything that is wrong, in file order; the faults carry JSON paths, the caller adds lines
    and columns.
    """

    def compile(wanted: Pipeline, chain: Chain) -> Plan:
        work = Work(wanted, specs, find, tuple(sorted(set(env))), prompts or {})
        chain.names.append(wanted.reference)
        try:
            _check(work, chain, compile)
            work.faults.raise_if_any()
            return assemble(work)
        finally:
            chain.names.pop()

    return compile(pipeline, Chain())


def survey_pipeline(
    sketch: Sketch,
    specs: Mapping[str, ComponentSpec],
    *,
    written: Find,
    find: Callable[[str], Pipeline] | None = None,
    env: Sequence[str] = (),
    prompts: Mapping[str, Prompt] | None = None,
) -> list[Fault]:
    """Everything that is wrong with a pipeline that cannot be resolved, or not even read whole.

    What is well-formed is resolved (`written` finds what it extends, as `inherit.trace` does) and checked as
    `compile_pipeline` would; of what follows from a fault nothing is told. Faults carry the JSON paths of the file at
    hand. Empty: nothing is wrong.
    """
    faults = list(sketch.faults)
    if sketch.pipeline is None:
        return faults
    resolved = merge(sketch.pipeline, written, sketch.gaps, faults)
    if not resolved.pipeline.abstract:
        chain = Chain()
        work = Work(
            resolved.pipeline, specs, find, tuple(sorted(set(env))), prompts or {}, gaps=sketch.gaps,
            faults=Faults(sketch.gaps.nameless),
        )  # fmt: skip
        try:
            _check(work, chain, lambda wanted, _: compile_pipeline(wanted, specs, find=find, env=env, prompts=prompts))
            found = work.faults.listed
        except RefusedError as error:  # too many
            found = list(error.faults)
        told = [fault.pointer for fault in faults if fault.file is None]  # those of this file
        faults += [fault for fault in map(resolved.relocate, found) if not _told(fault.pointer, told)]
    return faults


def _told(pointer: str, told: Sequence[str]) -> bool:
    """Whether a place, or what it stands in, has been told of. `$` and whole stages only miss something."""
    return any(
        pointer == each or (pointer.startswith((f"{each}.", f"{each}[")) and not _WHOLE.fullmatch(each))
        for each in told
    )


_WHOLE = re.compile(r"\$(\.(stages|compositions)\[\d+\]|\.extends)?")


def _check(work: Work, chain: Chain, compile: Callable[[Pipeline, Chain], Plan]) -> None:
    read_stages(work)
    attach_bodies(work)
    parser = Parser(work)
    for draft in work.drafts:
        parser.read(draft)
    attach_plans(work, chain, compile)
    attach_branches(work)
    for draft in work.drafts:
        link(work, draft)
    sort_scopes(work)
    attach_variables(work)
    outputs = Outputs(work)
    for draft in work.drafts:
        check_stage(work, draft, outputs)
    check_output(work)
