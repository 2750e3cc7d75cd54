"""Pipeline files: text to `Pipeline`, every fault in its place."""

from __future__ import annotations

from pathlib import Path as FilePath

from flowmason.document.reading import Document, Format, located, parse_document, read_document
from flowmason.errors import Fault, RefusedError
from flowmason.pipeline import Pipeline, parse_pipeline


def load_pipeline(path: str | FilePath) -> tuple[Pipeline, Document]:
    """Read a `*.pipeline.json` or `*.pipeline.yaml`. Raises `RefusedError` with all faults, in file order."""
    document = read_document(path)
    return as_pipeline(document), document


def parse_pipeline_text(
    text: str | bytes, *, file: str | None = None, format: Format | None = None
) -> tuple[Pipeline, Document]:
    """Like `load_pipeline`, from a text."""
    document = parse_document(text, file=file, format=format)
    return as_pipeline(document), document


def as_pipeline(document: Document) -> Pipeline:
    """The pipeline that a document holds. Raises `RefusedError` with all faults, in file order."""
    faults: list[Fault] = []
    pipeline = parse_pipeline(document.value, faults)
    if pipeline is None:
        placed = [located(fault, document) for fault in faults]
        placed.sort(key=lambda fault: (fault.line or 0, fault.column or 0))
        raise RefusedError(placed)
    return pipeline
