"""Requests of OpenAI's protocol: what is understood of them. What is not is refused by name, never dropped."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from flowmason_serve_apps.llm.engines import Body


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid")


class Part(_Strict):
    """A piece of a message."""

    type: Literal["text"]
    text: str


class Turn(_Strict):
    """One message."""

    role: Literal["system", "developer", "user", "assistant"]
    content: str | list[Part]
    name: str | None = None

    def plain(self) -> dict[str, str]:
        """As every engine takes it."""
        text = self.content if isinstance(self.content, str) else "".join(part.text for part in self.content)
        return {"role": "system" if self.role == "developer" else self.role, "content": text}


class Schema(_Strict):
    """A JSON Schema that the answer has to fit."""

    name: str = "answer"
    description: str | None = None
    schema_: dict[str, Any] = Field(alias="schema")
    strict: bool | None = None


class Format(_Strict):
    """What kind of text the answer is."""

    type: Literal["text", "json_object", "json_schema"]
    json_schema: Schema | None = None

    @model_validator(mode="after")
    def _has_schema(self) -> Format:
        if (self.type == "json_schema") is not (self.json_schema is not None):
            raise ValueError("json_schema goes with the type json_schema")
        return self


class StreamOptions(_Strict):
    """How a stream ends."""

    include_usage: bool = False


class _Asked(_Strict):
    model: str = Field(min_length=1, max_length=200)
    max_tokens: int | None = Field(None, ge=1)
    temperature: float | None = Field(None, ge=0, le=10)
    top_p: float | None = Field(None, gt=0, le=1)
    stop: str | Annotated[list[str], Field(max_length=16)] | None = None
    seed: int | None = None
    frequency_penalty: float | None = Field(None, ge=-2, le=2)
    presence_penalty: float | None = Field(None, ge=-2, le=2)
    n: Literal[1] | None = None
    stream: bool = False
    stream_options: StreamOptions | None = None
    user: str | None = None
    """Whom the caller asks for; not looked at."""

    @property
    def with_usage(self) -> bool:
        """Whether a stream ends with a chunk of its own for the usage."""
        return self.stream_options is not None and self.stream_options.include_usage

    def _common(self) -> Body:
        left_out = {"n", "stream", "stream_options", "user", "messages", "response_format", "prompt"}
        return self.model_dump(exclude_none=True, exclude=left_out)


class ChatAsked(_Asked):
    """The body of `POST /v1/chat/completions`."""

    messages: list[Turn] = Field(min_length=1)
    max_completion_tokens: int | None = Field(None, ge=1)
    response_format: Format | None = None

    def plain(self) -> Body:
        """As engines take it."""
        body = {**self._common(), "messages": [turn.plain() for turn in self.messages]}
        if self.response_format is not None and self.response_format.type != "text":
            body["response_format"] = self.response_format.model_dump(exclude_none=True, by_alias=True)
        return body


class CompletionAsked(_Asked):
    """The body of `POST /v1/completions`."""

    prompt: str = Field(min_length=1)

    def plain(self) -> Body:
        """As engines take it."""
        return {**self._common(), "prompt": self.prompt}
