"""The pipeline document as data: its types, its tables of keys, one reader and one writer.

Here may live what a pipeline file can say and how it is spelled. No I/O: text and positions are `document`'s,
inheritance is `inherit`'s, components and the graph are the compiler's.
"""

from flowmason.pipeline.json_schema import pipeline_json_schema
from flowmason.pipeline.model import (
    ABSTRACT,
    MAX_STAGES,
    Budget,
    Composition,
    LLMSettings,
    Pipeline,
    Position,
    Stage,
)
from flowmason.pipeline.parsing import dump_pipeline, dump_stage, parse_pipeline, parse_stage, unbuilt
from flowmason.pipeline.pointers import Path, format_pointer, parse_pointer
from flowmason.pipeline.sketching import Gaps, Sketch, sketch_pipeline
from flowmason.pipeline.spellings import RESERVED_IDS, STAGE_LISTS, canonical_inputs, other_spellings

__all__ = [
    "ABSTRACT",
    "MAX_STAGES",
    "RESERVED_IDS",
    "STAGE_LISTS",
    "Budget",
    "Composition",
    "Gaps",
    "LLMSettings",
    "Path",
    "Pipeline",
    "Position",
    "Sketch",
    "Stage",
    "canonical_inputs",
    "dump_pipeline",
    "dump_stage",
    "format_pointer",
    "other_spellings",
    "parse_pipeline",
    "parse_pointer",
    "parse_stage",
    "pipeline_json_schema",
    "sketch_pipeline",
    "unbuilt",
]
