"""From the text of a pipeline to a Plan, as one org sees it: its own pipelines, its components.

Compiled Plans are remembered by (digest of the document, digest of the components), together with the digests of the
other pipelines that went into them: one is used again only where all of them still say the same.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable
from typing import Any

import msgspec

from flowmason.compiler import compile_pipeline, survey_pipeline
from flowmason.document import Document, located, parse_document
from flowmason.document.pipelines import as_pipeline
from flowmason.document.reading import Format
from flowmason.errors import Code, Fault, RefusedError
from flowmason.ids import Digest, sha256
from flowmason.inherit import Find, trace
from flowmason.pipeline import Gaps, Pipeline, Sketch, dump_pipeline, parse_pipeline, sketch_pipeline
from flowmason.plan import Plan
from flowmason.studio.components import Components

_KEPT = 512

Look = Callable[[str], tuple[Digest, str]]
"""Gives the digest and the text of the pipeline of a reference; raises `LookupError` where there is none."""


class Written(msgspec.Struct, frozen=True):
    """A pipeline as somebody wrote it."""

    pipeline: Pipeline
    document: Document | None = None
    """Where its lines and columns are known."""

    @property
    def text(self) -> str:
        """The canonical form: what is kept, and what the digest is over."""
        return msgspec.json.encode(dump_pipeline(self.pipeline)).decode()


class Checked(msgspec.Struct, frozen=True):
    """What came of compiling."""

    plan: Plan | None
    faults: tuple[Fault, ...] = ()
    """What must be mended."""
    unbuilt: tuple[Fault, ...] = ()
    """What FlowMason cannot run yet: it may be kept, not run."""


class _Known(msgspec.Struct, frozen=True):
    checked: Checked
    others: tuple[tuple[str, Digest | None], ...]
    """References that were looked up, and what was there."""


def read_text(text: str | bytes, *, format: Format = "json") -> Written:
    """Read a pipeline from its text. Raises `RefusedError` with every fault in its place."""
    document = parse_document(text, format=format)
    return Written(as_pipeline(document), document)


def read_value(value: Any) -> Written:
    """Read a pipeline from plain JSON values. Raises `RefusedError` with every fault, with JSON paths alone."""
    faults: list[Fault] = []
    pipeline = parse_pipeline(value, faults)
    if pipeline is None:
        raise RefusedError(faults)
    return Written(pipeline)


class Compiling:
    """Compiles pipelines and remembers the Plans. One per process; thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._plans: OrderedDict[tuple[Digest, Digest], _Known] = OrderedDict()
        self._read: OrderedDict[Digest, Pipeline] = OrderedDict()

    def plan(self, written: Written, components: Components, look: Look) -> Plan:
        """The Plan of a pipeline. Raises `RefusedError` with everything that is wrong or cannot be run yet."""
        checked = self.check(written, components, look)
        if checked.plan is None:
            raise RefusedError([*checked.faults, *checked.unbuilt])
        return checked.plan

    def kept(self, digest: Digest, text: str, components: Components, look: Look) -> Plan:
        """The Plan of a pipeline that was kept under its digest. Raises as `plan` does."""
        found = self._remembered((digest, components.digest), look)
        if found is None:
            found = self._check(Written(self.parsed(digest, text)), components, look, digest)
        if found.plan is None:
            raise RefusedError([*found.faults, *found.unbuilt])
        return found.plan

    def check(self, written: Written, components: Components, look: Look) -> Checked:
        """Compile, and tell of everything that is wrong; an abstract pipeline is checked as far as it goes."""
        if written.document is not None:  # its places are its own
            return self._compile(written, components, look)
        digest = sha256(written.text.encode())
        return self._remembered((digest, components.digest), look) or self._check(written, components, look, digest)

    def survey(self, value: Any, components: Components, look: Look, document: Document | None = None) -> Checked:
        """Like `check`, of plain values that are no whole pipeline: what is well-formed of them is checked as well."""
        return self._survey(sketch_pipeline(value), components, look, document)

    def parsed(self, digest: Digest, text: str) -> Pipeline:
        """A pipeline that was kept, read."""
        with self._lock:
            found = self._read.get(digest)
            if found is not None:
                self._read.move_to_end(digest)
                return found
        pipeline = read_text(text).pipeline
        self._keep(self._read, digest, pipeline)
        return pipeline

    def _remembered(self, key: tuple[Digest, Digest], look: Look) -> Checked | None:
        with self._lock:
            known = self._plans.get(key)
        if known is None or any(_digest(look, reference) != digest for reference, digest in known.others):
            return None
        return known.checked

    def _check(self, written: Written, components: Components, look: Look, digest: Digest) -> Checked:
        others: dict[str, Digest | None] = {}

        def noted(reference: str) -> tuple[Digest, str]:
            others[reference] = None
            found = look(reference)
            others[reference] = found[0]
            return found

        checked = self._compile(written, components, noted)
        self._keep(self._plans, (digest, components.digest), _Known(checked, tuple(others.items())))
        return checked

    def _compile(self, written: Written, components: Components, look: Look) -> Checked:
        other, resolved = self._others(look)
        try:
            whole = trace(written.pipeline, other)
        except RefusedError:
            return self._survey(Sketch(written.pipeline, Gaps(), ()), components, look, written.document)
        if whole.pipeline.abstract:
            return Checked(None, unbuilt=(_ABSTRACT,))
        try:
            return Checked(_compiled(whole.pipeline, components, resolved))
        except RefusedError as error:
            return _refused([whole.relocate(fault) for fault in error.faults], written.document)

    def _survey(self, sketch: Sketch, components: Components, look: Look, document: Document | None) -> Checked:
        other, resolved = self._others(look)
        faults = survey_pipeline(sketch, components.registry, written=other, find=resolved, prompts=components.prompts)
        return _refused(faults, document)

    def _others(self, look: Look) -> tuple[Find, Find]:
        """What finds another pipeline as it is written, and as it is compiled."""

        def other(reference: str) -> Pipeline:
            return self.parsed(*look(reference))

        def resolved(reference: str) -> Pipeline:
            return trace(other(reference), other).pipeline

        return other, resolved

    def _keep(self, kept: OrderedDict[Any, Any], key: Any, value: Any) -> None:
        with self._lock:
            kept[key] = value
            kept.move_to_end(key)
            while len(kept) > _KEPT:
                kept.popitem(last=False)


_ABSTRACT = Fault("the pipeline is abstract: run one that extends it", "$.abstract", code=Code.NOT_SUPPORTED)


def _compiled(pipeline: Pipeline, components: Components, find: Callable[[str], Pipeline]) -> Plan:
    return compile_pipeline(pipeline, components.registry, find=find, prompts=components.prompts)


def _digest(look: Look, reference: str) -> Digest | None:
    try:
        return look(reference)[0]
    except LookupError:
        return None


def _refused(faults: Iterable[Fault], document: Document | None) -> Checked:
    placed = list(faults)
    if document is not None:
        placed = sorted((located(fault, document) for fault in placed), key=lambda f: (f.line or 0, f.column or 0))
    unbuilt = tuple(fault for fault in placed if fault.code == Code.NOT_SUPPORTED)
    return Checked(None, tuple(fault for fault in placed if fault.code != Code.NOT_SUPPORTED), unbuilt)
