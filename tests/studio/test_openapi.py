"""The committed OpenAPI document is that of the application."""

from __future__ import annotations

import json
from collections import Counter

from scripts.write_openapi import FILE, document


def test_the_committed_document_is_what_the_application_says() -> None:
    assert FILE.read_text(encoding="utf-8") == document(), "run: .venv/bin/python scripts/write_openapi.py"


def test_operations_have_ids_of_their_own_and_say_what_they_answer() -> None:
    paths = json.loads(document())["paths"]
    operations = [each for path in paths.values() for each in path.values()]
    ids = Counter(each["operationId"] for each in operations)
    assert not [name for name, count in ids.items() if count > 1]
    assert all(each.get("summary") and each["responses"] for each in operations)
