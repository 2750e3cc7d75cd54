"""`context`: what a component's `execute` is given besides its input."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from flowmason.component import ComponentContextError
from flowmason.errors import Code, StageError
from flowmason.ids import StagePath, idempotency_key
from flowmason.policy import Effect
from flowmason.region.plain import plain, said
from flowmason.report import LogLine, Progress
from flowmason.state import StageState
from flowmason.usage import Call, Usage

if TYPE_CHECKING:
    from flowmason.model import ModelProvider, ModelRequest, ModelResponse
    from flowmason.region.allowance import Spending
    from flowmason.region.llm import StageLLM
    from flowmason.region.mcp import StageMcp
    from flowmason.region.roots import Upstream
    from flowmason.region.run import RegionRun


class StageContext:
    """The `flowmason.component.Context` of one attempt of one stage."""

    def __init__(self, run: RegionRun, stage: StageState, upstream: Upstream) -> None:
        self._run = run
        self._stage = stage
        self._upstream = upstream
        self._llm: StageLLM | None = None
        self._logger: StageLogger | None = None
        self._cancel: CancelToken | None = None
        self.streamed = False
        """Whether a piece of an answer was shown."""
        self.spending: Spending | None = None
        """What the attempt's model calls used so far; None: there was none."""
        self.timeout: asyncio.Timeout | None = None
        """Bounds the attempt, once it waits for something."""

    @property
    def run_id(self) -> str:
        return self._run.region.run_id

    @property
    def pipeline_id(self) -> str:
        return self._stage.scope.plan.name

    @property
    def pipeline_version(self) -> str:
        return self._stage.scope.plan.version

    @property
    def stage_id(self) -> str:
        return self._stage.stage.id

    @property
    def path(self) -> StagePath:
        return self._stage.path

    @property
    def attempt(self) -> int:
        return self._stage.attempt

    @property
    def round(self) -> int:
        return self._stage.round

    @property
    def trace_id(self) -> str:
        return str(self._run.region.options.get("trace_id") or self.run_id)

    @property
    def idempotency_key(self) -> str:
        self._needs_effect("idempotency_key")
        return idempotency_key(self._run.region.run_id, self.path, self.round)

    def idempotency_key_for(self, name: str) -> str:
        self._needs_effect("idempotency_key_for")
        return idempotency_key(self._run.region.run_id, self.path, self.round, name)

    @property
    def pipeline_input(self) -> Any:
        return self._run.input_of(self._stage)

    @property
    def upstream(self) -> Mapping[str, Any]:
        """Only stages that the stage reads can be looked at: a dependency without data carries none."""
        from flowmason.expressions import ABSENT

        found = {name: self._upstream[name] for name in self._stage.stage.reads}
        return {name: None if item is ABSENT else item for name, item in found.items()}

    @property
    def variables(self) -> Mapping[str, Any]:
        from flowmason.expressions import ABSENT

        inherited = self._run.piece_of(self._stage.scope).variables
        found: dict[str, Any] = self._run.data.load(inherited) if inherited is not None else {}
        for name, setters in self._stage.stage.variables.items():
            for setter in setters:
                output = self._upstream[setter]
                if output is not ABSENT and isinstance(output, Mapping) and "value" in output:
                    found[name] = output["value"]
                    break
        return found

    def read_blob(self, reference: Mapping[str, Any]) -> bytes:
        digest = reference.get("$blob") if isinstance(reference, Mapping) else None
        if not isinstance(digest, str):
            raise StageError(
                'read_blob needs a reference such as {"$blob": "sha256:…"}',
                code=Code.INVALID_INPUT,
                help="A file becomes one by fm run --set name=@path.",
            )
        return self._run.data.read_blob(digest)

    def make_blob(self, data: bytes, type: str = "application/octet-stream") -> dict[str, Any]:
        return self._run.data.make_blob(self._run.mask(bytes(data)), type)

    @property
    def environment(self) -> Mapping[str, str]:
        return self._run.worker.environment()

    @property
    def llm(self) -> StageLLM:
        if self._llm is None:
            from flowmason.region.llm import StageLLM

            self._llm = StageLLM(self._run, self._stage, self)
        return self._llm

    def get_provider(self, name: str) -> StageLLM:
        from flowmason.region.llm import StageLLM

        return StageLLM(self._run, self._stage, self, provider=name)

    @property
    def logger(self) -> StageLogger:
        if self._logger is None:
            self._logger = StageLogger(self._run, self._stage)
        return self._logger

    @property
    def secrets(self) -> Any:
        self._needs_effect("secrets")
        return self._run.secrets_for(self._stage)

    @property
    def cache(self) -> Any:
        self._needs_effect("cache")
        return self._run.worker.cache_of(self._run.region.org_id)

    @property
    def http(self) -> Any:
        self._needs_effect("http")
        component = self._stage.scope.plan.components[self._stage.stage.component]
        return self._run.worker.http(component.hosts)

    @property
    def mcp(self) -> StageMcp:
        self._needs_effect("mcp")
        from flowmason.region.mcp import StageMcp

        return StageMcp(self._run.worker.services.mcp, self, self._run.region.org_id)

    @property
    def cancel_token(self) -> CancelToken:
        if self._cancel is None:
            self._cancel = CancelToken()
        return self._cancel

    def progress(
        self, fraction: float | None = None, *, done: int | None = None, total: int | None = None, message: str = ""
    ) -> None:
        """Show how far the stage is; never recorded."""
        entry = Progress(
            path=self.path,
            attempt=self.attempt,
            done=float(done if done is not None else fraction or 0.0),
            total=float(total) if total is not None else (1.0 if fraction is not None else None),
            message=self._run.masker.text(said(message)),
        )
        self._run.outbox.side(entry)

    emit_progress = progress

    def as_root(self) -> dict[str, Any]:
        """What `context.` shows to templates: fields of the run and the variables."""
        locals_: dict[str, Any] = {
            "run_id": self.run_id,
            "pipeline_id": self.pipeline_id,
            "pipeline_version": self.pipeline_version,
            "stage_id": self.stage_id,
            "trace_id": self.trace_id,
        }
        return {**self.variables, **locals_}

    @contextlib.contextmanager
    def untimed(self, already_s: float) -> Iterator[None]:
        """Stop the attempt's clock: it waits its turn, and has done so for `already_s` seconds."""
        loop, timeout = asyncio.get_running_loop(), self.timeout
        due = timeout.when() if timeout is not None else None
        since = loop.time() - already_s
        if timeout is None or due is None or due <= loop.time():
            yield
            return
        timeout.reschedule(None)
        try:
            yield
        finally:
            timeout.reschedule(due + loop.time() - since)

    def close(self) -> None:
        """The attempt is over: whoever still holds the cancel token learns it."""
        if self._cancel is not None:
            self._cancel.set()

    async def ask(
        self,
        provider: ModelProvider,
        request: ModelRequest,
        on_delta: Callable[[str], None],
        *,
        chained: bool = False,
        cache_s: float | None = None,
    ) -> ModelResponse:
        """Ask a model once, within the attempt's allowance and its provider's limits, and keep account of it."""
        if self.spending is None:
            from flowmason.region.allowance import Spending

            self.spending = Spending(self._run, self._stage, self)
        return await self.spending.ask(provider, request, on_delta, chained=chained, cache_s=cache_s)

    @property
    def usage(self) -> Usage | None:
        """The sum of the attempt's model calls so far."""
        return None if self.spending is None else self.spending.usage

    @property
    def calls(self) -> tuple[Call, ...]:
        """The attempt's model calls so far."""
        return () if self.spending is None else tuple(self.spending.calls)

    def _needs_effect(self, name: str) -> None:
        if self._stage.stage.effect is Effect.PURE:
            raise ComponentContextError(
                f"context.{name} is for components with an effect; {self._stage.stage.component} is pure",
                code=Code.USAGE,
                help='Declare effect="idempotent" or effect="unsafe" on the component.',
            )


class StageLogger:
    """`context.logger`: lines that are shown beside the run."""

    def __init__(self, run: RegionRun, stage: StageState) -> None:
        self._run = run
        self._stage = stage

    def _write(self, level: str, message: str, fields: dict[str, Any]) -> None:
        path, attempt = self._stage.path, self._stage.attempt
        masked = self._run.masker
        shown = {masked.text(said(key)): masked.mask(_plain(item)) for key, item in fields.items()}
        self._run.outbox.side(
            LogLine(
                path,
                attempt,
                self._run.number(path, attempt),
                self._run.worker.now(),
                level,
                masked.text(said(message)),
                shown,
            )
        )

    def debug(self, message: str, **fields: Any) -> None:
        self._write("debug", message, fields)

    def info(self, message: str, **fields: Any) -> None:
        self._write("info", message, fields)

    def warning(self, message: str, **fields: Any) -> None:
        self._write("warning", message, fields)

    warn = warning

    def error(self, message: str, **fields: Any) -> None:
        self._write("error", message, fields)


class CancelToken:
    """Set once the attempt is cancelled or over."""

    def __init__(self) -> None:
        self._event = asyncio.Event()

    @property
    def cancelled(self) -> bool:
        return self._event.is_set()

    def raise_if_cancelled(self) -> None:
        if self.cancelled:
            raise asyncio.CancelledError

    async def wait(self) -> None:
        await self._event.wait()

    def set(self) -> None:
        """Tell everybody who looks or waits."""
        self._event.set()


def _plain(item: Any) -> Any:
    return item if item is None or isinstance(item, bool | float) else plain(item)
