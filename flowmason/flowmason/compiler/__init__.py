"""Pipeline in, Plan out: references resolved to edges, bodies to scopes, everything checked before anything runs.

Pure: no I/O, no clock. Other pipelines and components are looked up through what the caller hands in.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from flowmason.compiler.assemble import OUTPUT, assemble
from flowmason.compiler.bindings import Parser
from flowmason.compiler.bodies import attach_bodies, attach_branches
from flowmason.compiler.checks import check_output, check_stage
from flowmason.compiler.draft import Work
from flowmason.compiler.front import read_stages
from flowmason.compiler.links import link
from flowmason.compiler.order import sort_scopes
from flowmason.compiler.outputs import Outputs
from flowmason.compiler.subplans import Chain, attach_plans
from flowmason.compiler.variables import attach_variables
from flowmason.compiler.waves import explain
from flowmason.component import ComponentSpec
from flowmason.plan import Plan
from flowmason.prompt import Prompt

if TYPE_CHECKING:
    from flowmason.pipeline import Pipeline

__all__ = ["OUTPUT", "compile_pipeline", "explain"]


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
            return _compile(work, chain, compile)
        finally:
            chain.names.pop()

    return compile(pipeline, Chain())


def _compile(work: Work, chain: Chain, compile: Callable[[Pipeline, Chain], Plan]) -> Plan:
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
    work.faults.raise_if_any()
    return assemble(work)
