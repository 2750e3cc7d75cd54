"""Writes serve_apps/openapi.json, the OpenAPI document of the Studio. A test holds it to the application."""

from __future__ import annotations

import json
from pathlib import Path

from flowmason_serve_apps.studio.app import make_app
from flowmason_serve_apps.studio.settings import StudioSettings

FILE = Path(__file__).parents[1] / "serve_apps" / "openapi.json"


def document() -> str:
    """The document as it is committed: keys sorted, so that differences are small."""
    app = make_app(StudioSettings(database_url="sqlite://", values_url="nowhere"))
    return json.dumps(app.openapi(), indent=1, sort_keys=True, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    FILE.write_text(document(), encoding="utf-8")
    print(f"wrote {FILE}")
