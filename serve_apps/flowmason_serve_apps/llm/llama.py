"""llama.cpp as an engine: one replica with its model, answering up to `parallel` calls at once."""

from __future__ import annotations

import asyncio
import os
import re
import threading
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from flowmason.errors import FlowMasonError
from flowmason.providers.llama_server import BATCH, open_server
from flowmason.served import ServedModel, names
from flowmason.served.model import CONTEXT
from flowmason.served.sources import fetch
from flowmason_serve_apps.llm.engines import Body, Card, Chunk, Counts, completed, failed

_METRIC = re.compile(r"^llamacpp:(\w+) ([0-9.e+]+)$", re.MULTILINE)
_END = object()


class LlamaEngine:
    """`Engine` over `xllamacpp`."""

    def __init__(self, model: ServedModel) -> None:
        """Fetch the weights where they are not here, and load them. Blocks."""
        self._model = model
        arguments = model.engine_args
        self._parallel = int(arguments.get("parallel", 1))
        self._server: Any = open_server(
            fetch(model.source, os.environ),
            threads=int(arguments.get("threads", 1)),
            context=model.context or CONTEXT,
            parallel=self._parallel,
            batch=int(arguments.get("batch", BATCH)),
            gpu_layers=int(arguments.get("gpu_layers", 0)),
            adapters=[fetch(each.source, os.environ) for each in model.adapters],
        )
        self._threads = ThreadPoolExecutor(model.max_ongoing, thread_name_prefix="llamacpp")

    async def answer(self, body: Body) -> AsyncIterator[list[Chunk]]:
        """See `Engine.answer`."""
        try:
            question = self._question(body)
        except FlowMasonError as error:
            yield [failed(404, str(error), "not_found_error")]
            return
        named = str(body.get("model") or self._model.name)
        stop = threading.Event()
        loop = asyncio.get_running_loop()
        queue: asyncio.Queue[Any] = asyncio.Queue()

        def take(chunk: Chunk) -> bool:
            if not stop.is_set():
                loop.call_soon_threadsafe(queue.put_nowait, chunk)
            return stop.is_set()

        job = loop.run_in_executor(self._threads, self._ask, question, take, stop)
        job.add_done_callback(lambda _: queue.put_nowait(_END))
        try:
            ended = False
            while not ended:
                items = [await queue.get()]
                while not queue.empty():
                    items.append(queue.get_nowait())
                ended = items[-1] is _END
                if chunks := [_shown(each, named) for each in items if _says_something(each)]:
                    yield chunks
            broken = job.exception()
            if broken is not None:
                yield [failed(400, str(broken)[:2000], "invalid_request_error")]
        finally:
            # Whoever goes away, however it happens, leaves no generation behind: llama.cpp looks at every token.
            stop.set()

    async def counts(self) -> Counts:
        """See `Engine.counts`."""
        said: str = await asyncio.to_thread(self._server.handle_metrics)
        found = {name: int(float(value)) for name, value in _METRIC.findall(said)}
        return Counts(
            found.get("prompt_tokens_total", 0),
            found.get("tokens_predicted_total", 0),
            found.get("requests_processing", 0),
            found.get("requests_deferred", 0),
        )

    async def describe(self) -> Card:
        """See `Engine.describe`."""
        return Card.of(self._model)

    def _ask(self, question: Body, take: Callable[[Chunk], bool], stop: threading.Event) -> None:
        if stop.is_set():
            return
        ask = self._server.handle_chat_completions if "messages" in question else self._server.handle_completions
        ask(question, take)

    def _question(self, body: Body) -> Body:
        """Raises `UsageError` where an adapter is asked for that the model has not."""
        question = completed(body, self._model)
        question.pop("model", None)
        if "max_completion_tokens" in question:
            question["max_tokens"] = question.pop("max_completion_tokens")
        if self._model.adapters:
            _, wanted = names.adapted(str(body.get("model") or ""))
            chosen = self._model.adapter(wanted) if wanted else None
            question["lora"] = [
                {"id": n, "scale": 1.0 if each is chosen else 0.0} for n, each in enumerate(self._model.adapters)
            ]
        elif names.adapted(str(body.get("model") or ""))[1]:
            self._model.adapter(str(names.adapted(str(body["model"]))[1]))
        # A prompt is read in pieces, and between them it is looked at whether the caller is still there.
        question["return_progress"] = True
        return question


def _says_something(item: Any) -> bool:
    return item is not _END and "prompt_progress" not in item


def _shown(chunk: Chunk, model: str) -> Chunk:
    """The chunk under the name that the caller gave, instead of the file's."""
    return chunk if "error" in chunk else {**chunk, "model": model}
