"""What the compiler knows of a stage while it works: mutable, and gone when the Plan stands."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

from flowmason.compiler.faults import Faults, Known
from flowmason.component import ComponentSpec
from flowmason.expressions import Template
from flowmason.ids import PlanId, StageId
from flowmason.plan import Kind, Plan
from flowmason.prompt import Prompt

if TYPE_CHECKING:
    from flowmason.pipeline import Gaps, Pipeline
    from flowmason.pipeline import Stage as Source

BODIES: dict[Kind, dict[str, str]] = {
    Kind.FOREACH: {"loop_stages": "loop"},
    Kind.TRYCATCH: {"try_stages": "try", "catch_stages": "catch", "finally_stages": "finally"},
}
"""Control-flow kind → its input that lists the stages of a body → the role of that body."""

ROLES = ("loop", "try", "catch", "finally")
"""In the order in which they run."""


@dataclass(slots=True, eq=False)
class Place:
    """A scope in the making: the root, or one body of a stage."""

    owner: Draft | None = None
    role: str = ""
    depth: int = 0
    members: list[Draft] = field(default_factory=list)

    def around(self) -> Iterator[Place]:
        """This scope and those around it, the innermost first."""
        here: Place | None = self
        while here is not None:
            yield here
            here = here.owner.place if here.owner is not None else None


class Use(NamedTuple):
    """One path of an expression, and where it is written."""

    root: str
    path: tuple[str | int, ...]
    optional: bool
    """Inside `default()`."""
    pointer: str


@dataclass(slots=True, eq=False)
class PromptUse:
    """An input that is a prompt by reference."""

    prompt: Prompt
    template: Template
    """Which of the prompt's texts it is."""
    written: dict[str, Any]
    """Variable → what the stage gives for it."""
    pointer: str
    given: dict[str, Template] = field(default_factory=dict)
    """Every variable → what stands for it, defaults included."""
    refused: set[str] = field(default_factory=set)
    """Variables of which it has been told already that they cannot be."""


@dataclass(slots=True, eq=False)
class Draft:
    """One stage."""

    index: int
    source: Source
    id: StageId
    spec: ComponentSpec | None
    """None: the component is unknown, which was told."""
    kind: Kind | None
    """Of an unknown component what it is likely to be, or None."""
    like: ComponentSpec | None
    """Of an unknown component the one whose name is nearest."""
    inputs: dict[str, Any]
    """`config` and `input_mapping` as written, merged."""
    pointers: dict[str, str]
    """Input → where it is written."""
    place: Place
    position: int = 0
    """Breaks ties in its scope: in the root the place in the file, in a body the place in the list."""
    places: dict[str, Place] = field(default_factory=dict)
    """Role → body."""
    loop: tuple[str, str] = ("item", "index")
    """Names of a foreach's variables."""
    broken: set[str] = field(default_factory=set)
    """Places of expressions that were refused: nothing is known of what would stand there."""
    refused: set[str] = field(default_factory=set)
    """Inputs of which it has been told already that they cannot be."""
    unread: bool = False
    """There may be inputs that could not be read, which was told."""
    vague: bool = False
    """Not all stages of its bodies are known, which was told."""
    prompts: dict[str, PromptUse] = field(default_factory=dict)
    """Input → the prompt that it refers to."""
    templates: dict[str, Template] = field(default_factory=dict)
    uses: list[Use] = field(default_factory=list)
    reads: dict[StageId, None] = field(default_factory=dict)
    data: dict[StageId, str] = field(default_factory=dict)
    """Stage of the same scope that must have ended, its output being read → why, in words."""
    order: dict[StageId, str] = field(default_factory=dict)
    """The like without data."""
    arms: dict[StageId, dict[str, None]] = field(default_factory=dict)
    """Guard → the choices under which this stage runs."""
    variables: dict[str, tuple[StageId, ...]] = field(default_factory=dict)
    plan: Plan | None = None
    """Of a sub-pipeline with a literal name: what it runs."""

    @property
    def pointer(self) -> str:
        """`$.stages[i]`."""
        return f"$.stages[{self.index}]"

    def at(self, name: str) -> str:
        """Where an input is written; for one that is not, where it would be."""
        return self.pointers.get(name) or f"{self.pointer}.config"

    @property
    def needs(self) -> dict[StageId, str]:
        """Every stage of the same scope that must have ended → why, in words."""
        guards = {guard: f"{self.id} is listed by {guard}" for guard in self.arms}
        return {**guards, **self.order, **self.data}

    @property
    def loops(self) -> tuple[Draft, ...]:
        """The foreach stages around this one, the innermost first."""
        return tuple(place.owner for place in self.place.around() if place.owner is not None and place.role == "loop")


@dataclass(slots=True, eq=False)
class Work:
    """One pipeline being compiled."""

    pipeline: Pipeline
    specs: Mapping[str, ComponentSpec]
    find: Callable[[str], Pipeline] | None
    env: tuple[str, ...]
    prompts: Mapping[str, Prompt] = field(default_factory=dict)
    used: dict[str, Prompt] = field(default_factory=dict)
    """Prompts that stages refer to."""
    gaps: Gaps | None = None
    """What could not be read of the file; None: it was read whole."""
    faults: Faults = field(default_factory=Faults)
    root: Place = field(default_factory=Place)
    drafts: list[Draft] = field(default_factory=list)
    by_id: dict[str, Draft] = field(default_factory=dict)
    plans: dict[PlanId, Plan] = field(default_factory=dict)
    """Sub-pipelines' Plans by id, however deep."""

    def fault(
        self, draft: Draft, pointer: str, reason: str, *, wrong: str | None = None, known: Any = (), **more: Any
    ) -> None:
        """Note a fault in a stage."""
        self.faults.add(pointer, reason, stage=draft.index, wrong=wrong, known=known, **more)

    def leave_open(self, *what: Known) -> None:
        """A fault has left this open: what rests on it is not told."""
        self.faults.open.update(what)

    def unplaced(self, *drafts: Draft) -> Known | None:
        """What a fault rests on that is one only where these stages stand: in the root they may be of a lost body."""
        return Known.BODIES if any(draft.place is self.root for draft in drafts) else None


def meet(a: Draft, b: Draft) -> tuple[Draft, Draft]:
    """The two stages, or what owns them, that stand in the nearest scope around both.

    The same stage twice: one owns the other, or both stand in different bodies of that stage.
    """
    x, y = a, b
    while x.place is not y.place:
        if x.place.depth >= y.place.depth:
            assert x.place.owner is not None
            x = x.place.owner
        else:
            assert y.place.owner is not None
            y = y.place.owner
    return x, y


def climb(draft: Draft, top: Draft) -> Iterator[Draft]:
    """`draft` and what owns it, up to and with `top`."""
    here: Draft | None = draft
    while here is not None:
        yield here
        if here is top:
            return
        here = here.place.owner


def role_under(draft: Draft, owner: Draft) -> str:
    """In which body of `owner` a stage stands, however deep; `""` for the owner itself."""
    for place in draft.place.around():
        if place.owner is owner:
            return place.role
    return ""
