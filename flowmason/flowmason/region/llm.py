"""`context.llm`: the stage's language model, its tokens streamed and accounted."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import msgspec

from flowmason.component import parse_json
from flowmason.errors import Code, FlowMasonError
from flowmason.ids import sha256
from flowmason.model import Message, ModelRequest, ModelResponse, Tool, abilities_of
from flowmason.region.plain import said
from flowmason.report import ASKED, Delta
from flowmason.secrets import StreamMasker
from flowmason.state import StageState

if TYPE_CHECKING:
    from flowmason.model import ModelProvider, OnDelta
    from flowmason.providers import Candidate
    from flowmason.region.context import StageContext
    from flowmason.region.run import RegionRun
    from flowmason.region.tools import ToolAnswer


class StageLLM:
    """Chooses provider and model: by the call, the stage's `llm_settings`, the run, the project."""

    def __init__(self, run: RegionRun, stage: StageState, context: StageContext, provider: str | None = None) -> None:
        self._run = run
        self._stage = stage
        self._context = context
        self._chosen = provider
        self._settings: Mapping[str, Any] = stage.stage.llm or {}
        budget = stage.stage.budget
        self._instead = budget.fallback if budget is not None and run.region.fallback else None
        """The cheaper model of the stage's budget, where that is all it may ask."""
        self._first: str | None = None
        """The first prompt of the attempt, as the component wrote it."""

    @property
    def provider_name(self) -> str:
        return self._provider_name(None)

    @property
    def _cache_s(self) -> float | None:
        """How old a kept answer may be that is given again: as the stage says, else as the org does, which may also
        say that none ever is (0)."""
        own, org = self._settings.get("cache_s"), self._run.region.options.get("kept_answers_s")
        return None if org == 0 else (org if own is None else own) or None

    def _provider_name(self, asked: str | None) -> str:
        if self._instead is not None and self._instead.provider:
            return self._instead.provider
        name = asked or self._chosen or self._settings.get("provider") or self._run.region.options.get("provider")
        name = name or self._run.worker.services.default_provider
        if not name:
            raise FlowMasonError(
                "no model provider is chosen for this stage",
                code=Code.NO_PROVIDER,
                help='Set "providers": {"default": …} in flowmason.json, llm_settings.provider on the stage, '
                "or pass --provider. The mock provider must be asked for by name.",
            )
        return str(name)

    def _candidates(self, name: str) -> tuple[Candidate, ...]:
        found = self._run.worker.services.candidates(name)
        if self._instead is not None and not self._instead.provider:
            return found[:1]  # the others' models are not the cheaper one
        return found

    async def generate(
        self,
        prompt: str,
        system_prompt: str | None = None,
        model: str | None = None,
        temperature: float | None = None,
        max_tokens: int | None = None,
        *,
        schema: Mapping[str, Any] | None = None,
        provider: str | None = None,
        stop_sequences: Sequence[str] | None = None,
        top_p: float | None = None,
        on_piece: Callable[[str], None] | None = None,
    ) -> ModelResponse:
        """Ask once; see `flowmason.component.LLM.generate`. `on_piece` is told the text as it comes."""
        prompt, system_prompt = self._edited(prompt, system_prompt)
        self._tell_asked(system_prompt, prompt, model)
        request = self._request(model, temperature, max_tokens, stop_sequences, top_p)
        request = msgspec.structs.replace(
            request,
            prompt=prompt,
            system_prompt=system_prompt,
            json_schema=dict(schema) if schema is not None else None,
        )
        return await self._ask(request, provider, on_piece)

    async def step(
        self,
        turns: Sequence[Message],
        tools: Sequence[Tool],
        system_prompt: str | None,
        *,
        model: str | None = None,
        temperature: float | None = None,
        max_tokens: int | None = None,
        provider: str | None = None,
        stop_sequences: Sequence[str] | None = None,
        top_p: float | None = None,
        on_piece: Callable[[str], None] | None = None,
    ) -> ModelResponse:
        """Ask for the next turn of a conversation with tools: an answer, or calls of tools.

        Raises `flowmason.region.tool_words.NoStep` where the model was asked in words and its reply is neither.
        """
        from flowmason.region.tool_words import transcript

        prompt, system_prompt = self._edited(turns[0].content, system_prompt)
        turns = (msgspec.structs.replace(turns[0], content=prompt), *turns[1:])
        self._tell_asked(system_prompt, transcript(turns), model)
        request = self._request(model, temperature, max_tokens, stop_sequences, top_p)
        request = msgspec.structs.replace(request, messages=turns, system_prompt=system_prompt, tools=tuple(tools))
        return await self._ask(request, provider, on_piece)

    def _tell_asked(self, system_prompt: str | None, prompt: str, model: str | None) -> None:
        if self._run.region.debugged:
            asked = {"system_prompt": system_prompt, "user_prompt": prompt, "model": self._model(model)}
            self._context.logger.debug(ASKED, **asked)

    def _model(self, asked: str | None) -> str | None:
        return self._instead.model if self._instead is not None else asked or self._settings.get("model")

    def _request(
        self,
        model: str | None,
        temperature: float | None,
        max_tokens: int | None,
        stop_sequences: Sequence[str] | None,
        top_p: float | None,
    ) -> ModelRequest:
        settings = self._settings
        return ModelRequest(
            model=self._model(model),
            temperature=_first(settings.get("temperature"), temperature),
            max_tokens=_first(settings.get("max_tokens"), max_tokens),
            top_p=_first(settings.get("top_p"), top_p),
            stop_sequences=tuple(stop_sequences or settings.get("stop_sequences") or ()),
            prompt_cache=self._prompt_cache(),
            timeout_s=self._stage.stage.timeout_ms / 1000,
        )

    async def _ask(
        self, request: ModelRequest, provider: str | None, on_piece: Callable[[str], None] | None
    ) -> ModelResponse:
        """Ask the chosen provider, or its chain; a member that takes no tools is asked in words."""
        shown = StreamMasker(self._run.masker)
        begun = in_words = False

        def streamed(text: str) -> None:
            nonlocal begun
            self._delta(shown.feed(text))
            if not begun:
                self._run.outbox.flush()  # who watches waits for the first piece; the others go with the pulse
            begun = True
            if on_piece is not None:
                on_piece(text)

        from flowmason.providers import ask_in_turn, ask_through
        from flowmason.region.tool_words import in_words_of, step_of

        async def ask(provider: str, request: ModelRequest) -> ModelResponse:
            nonlocal in_words
            found = self._run.worker.services.provider(provider, self._run.region)
            in_words = bool(request.tools) and not abilities_of(found, request).tools
            if in_words:
                request = in_words_of(request)
            chained = len(candidates) > 1

            async def once(found: ModelProvider, request: ModelRequest, on_delta: OnDelta) -> ModelResponse:
                # The rest of an answer is no answer that could be kept.
                cache_s = None if request.begun else self._cache_s
                return await self._context.ask(found, request, on_delta, chained=chained, cache_s=cache_s)

            def tell(characters: int, number: int) -> None:
                said = f"the answer of {provider} broke off after {characters} characters; it goes on from there"
                self._context.logger.warning(said, provider=provider, resumption=number)

            return await ask_through(found, request, once, streamed, tell)

        name = self._provider_name(provider)
        candidates = self._candidates(name)
        try:
            response = await ask_in_turn(name, candidates, request, ask, lambda: begun)
        finally:
            self._delta(shown.end())
        return step_of(response, request) if in_words else response

    async def generate_object(self, prompt: str, output: Any, **options: Any) -> Any:
        """The answer as an object; see `flowmason.component.LLM.generate_object`."""
        from flowmason.component.objects import ask_model

        return await ask_model(self.generate, prompt, output, **options)

    async def use_tools(
        self,
        prompt: str,
        tools: Sequence[str | Mapping[str, Any]],
        *,
        max_steps: int = 8,
        system_prompt: str | None = None,
        **options: Any,
    ) -> ToolAnswer:
        """Ask until there is an answer; see `flowmason.component.LLM.use_tools`."""
        from flowmason.region.tools import use_tools

        given = {"max_steps": max_steps, "system_prompt": system_prompt, **options}
        return await use_tools(self, self._run, self._stage, self._context, prompt, tools, **given)

    async def generate_async(self, *arguments: Any, **options: Any) -> ModelResponse:
        """The same as `generate`."""
        return await self.generate(*arguments, **options)

    async def generate_stream(self, prompt: str, *arguments: Any, **options: Any) -> AsyncIterator[str]:
        """The answer in pieces, as they come."""
        pieces: asyncio.Queue[str | None] = asyncio.Queue()
        call = asyncio.create_task(self.generate(prompt, *arguments, on_piece=pieces.put_nowait, **options))
        call.add_done_callback(lambda _: pieces.put_nowait(None))
        try:
            while (piece := await pieces.get()) is not None:
                yield piece
            await call
        finally:
            if not call.done():
                call.cancel()

    def _prompt_cache(self) -> str | None:
        """Calls of a stage begin alike, and so do those of its next run."""
        if not self._settings.get("prompt_cache"):
            return None
        return sha256(f"{self._run.region.org_id}/{self._context.pipeline_id}/{self._context.stage_id}".encode())[7:39]

    def _edited(self, prompt: str, system_prompt: str | None) -> tuple[str, str | None]:
        """The prompts as somebody edited them. What a component adds in a later call (a repair, say) is kept."""
        edit = self._stage.edit
        if edit is None:
            return prompt, system_prompt
        if self._first is None:
            self._first = prompt
        if edit.user_prompt is not None and prompt.startswith(self._first):
            prompt = edit.user_prompt + prompt[len(self._first) :]
        return prompt, edit.system_prompt if edit.system_prompt is not None else system_prompt

    def parse_json(self, text: str) -> Any:
        """The JSON in a model's answer."""
        return parse_json(text)

    def _delta(self, text: str) -> None:
        if not text:
            return
        path, attempt = self._stage.path, self._stage.attempt
        begins = not self._context.streamed
        self._context.streamed = True
        number = self._run.number(path, attempt)
        self._run.outbox.side(Delta(path, attempt, number, said(text), reset=begins and attempt > 1))


def _first(*candidates: Any) -> Any:
    return next((item for item in candidates if item is not None), None)
