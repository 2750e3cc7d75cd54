"""Documents: text (JSON or YAML 1.2) to plain values, with the place of each value, and pipeline files.

Here may live what reads text into plain values. What the values mean is `pipeline`'s business.
"""

from flowmason.document.limits import MAX_BYTES, MAX_DEPTH, MAX_VALUES
from flowmason.document.pipelines import as_pipeline, load_pipeline, parse_pipeline_text
from flowmason.document.reading import Document, located, parse_document, read_document

__all__ = [
    "MAX_BYTES",
    "MAX_DEPTH",
    "MAX_VALUES",
    "Document",
    "as_pipeline",
    "load_pipeline",
    "located",
    "parse_document",
    "parse_pipeline_text",
    "read_document",
]
