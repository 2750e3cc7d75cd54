"""The JSON Schema of pipeline files, for editors and other tools; `pipeline.schema.json` is its committed copy."""

from __future__ import annotations

from typing import Any

from flowmason.pipeline.keys import COMPOSITION, PIPELINE, STAGE
from flowmason.pipeline.model import MAX_STAGES

SCHEMA_ID = "https://flowmason.dev/schemas/pipeline.schema.json"


def pipeline_json_schema() -> dict[str, Any]:
    """JSON Schema (2020-12) of a pipeline file, made from the tables that the parser reads.

    It accepts every spelling. What no schema can say (unique ids, sound references) is left to `fm validate`.
    """
    schema = PIPELINE.schema()
    for key, record in (("stages", STAGE), ("compositions", COMPOSITION)):
        listed = schema["properties"][key]["anyOf"][0]
        listed["items"] = {"$ref": f"#/$defs/{key[:-1]}"}
        listed["maxItems"] = MAX_STAGES
        schema.setdefault("$defs", {})[key[:-1]] = record.schema()
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$id": SCHEMA_ID,
        "title": "FlowMason pipeline",
        **schema,
    }


def schema_text() -> str:
    """The schema as the committed file holds it."""
    import json

    return json.dumps(pipeline_json_schema(), indent=2) + "\n"
