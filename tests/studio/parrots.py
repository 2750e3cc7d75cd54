"""A component that repeats its secret wherever it can, and a look into everything that a Studio keeps and says."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from flowmason.ids import RunId
from flowmason.journal_sql import open_journal
from flowmason.package import pack_bytes
from flowmason.project import load_project
from studio.conducting import sse
from studio.kit import Studio

SOURCE = """
import os
from flowmason import Context, NodeInput, NodeOutput, OperatorInput, OperatorOutput, StageError, node, operator


@node(name="parrot", category="test", description="Repeats its secret.", secrets=["API-key"])
class Parrot:
    class Input(NodeInput):
        fail: bool = False
        ask: bool = False

    class Output(NodeOutput):
        length: int
        value: object
        large: str
        blob: object

    async def execute(self, input: Input, context: Context) -> Output:
        secret = context.secrets.get("API-key")
        context.logger.info(f"it is {secret}", field=secret, deep={"list": [secret]})
        context.progress(0.5, message=f"half of {secret}")
        if input.ask:
            await context.llm.generate(f"say {secret} again", provider="mock")
        if input.fail:
            try:
                raise ValueError(secret)
            except ValueError as error:
                raise StageError(f"cannot go on with {secret}", details={"key": secret}, help=secret) from error
        return self.Output(
            length=len(secret),
            value={f"key {secret}": [secret, {"in": f"({secret})"}]},
            large=f"{secret} " * 2000,
            blob=context.make_blob(f"<{secret}>".encode()),
        )


@operator(name="nosy", category="test", description="Asks for what it did not declare.", effect="idempotent")
class Nosy:
    class Input(OperatorInput):
        what: str = "secret"

    class Output(OperatorOutput):
        value: object

    async def execute(self, input: Input, context: Context) -> Output:
        if input.what == "environment":
            return self.Output(value=[dict(os.environ), dict(context.environment)])
        if input.what == "put":
            await context.cache.set("shared", "of another org")
            return self.Output(value=None)
        if input.what == "cache":
            return self.Output(value=await context.cache.get("shared"))
        return self.Output(value=context.secrets.get("API-key"))
"""


def parrots(folder: Path) -> bytes:
    """The package of those components."""
    root = folder / "parrots"
    (root / "components").mkdir(parents=True)
    (root / "flowmason.json").write_text('{"name": "parrots", "version": "1.0.0"}')
    (root / "components" / "parrots.py").write_text(SOURCE)
    return pack_bytes(load_project(root))


def upload(studio: Studio, data: bytes, headers: dict[str, str] | None = None) -> None:
    """The package is one of the org's from now on."""
    answer = studio.client.post(
        "/api/v1/registry/deploy", files={"file": ("p.fmpkg", data)}, headers=headers or studio.headers()
    )
    assert answer.status_code == 201, answer.text


def pipeline(component: str, **config: Any) -> dict[str, Any]:
    """A pipeline of one stage that is not tried again."""
    stage = {"id": "a", "component_type": component, "config": config, "retry_config": {"max_retries": 0}}
    return {"name": "birds", "version": "1.0.0", "stages": [stage]}


def said(studio: Studio, run_id: str) -> Iterator[tuple[str, str]]:
    """All that the API says of a run and of secrets."""
    for path in ("", "/trace", "/logs", "/events"):
        answer = studio.client.get(f"/api/v1/runs/{run_id}{path}", headers=studio.headers())
        assert answer.status_code in (200, 404), answer.text
        yield path, answer.text
    yield "stream", json.dumps(sse(studio, f"{run_id}?logs=true&deltas=true"))
    for path in ("secrets", "runs", "audit"):
        yield path, studio.client.get(f"/api/v1/{path}", headers=studio.headers()).text


def kept(studio: Studio, folder: Path, run_id: str) -> Iterator[tuple[str, bytes]]:
    """All that lies on disk, and the run's journal as it is read (it is compressed on disk)."""
    for file in sorted(folder.rglob("*")):
        if file.is_file():
            yield str(file), file.read_bytes()

    async def read() -> str:
        journal = open_journal(studio.services.settings.database_url)
        try:
            run = RunId(run_id)
            return repr([await journal.read(run), await journal.logs(run), await journal.deltas(run)])
        finally:
            await journal.close()

    yield "journal", asyncio.run(read()).encode()


def assert_nowhere(studio: Studio, folder: Path, run_id: str, secret: str) -> None:
    """The secret stands nowhere, neither as it is nor in base64."""
    forms = [secret.encode(), base64.b64encode(secret.encode()).rstrip(b"=")]
    for place, text in said(studio, run_id):
        assert not any(form in text.encode() for form in forms), place
    for place, data in kept(studio, folder, run_id):
        assert not any(form in data for form in forms), place
