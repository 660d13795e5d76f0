"""Fields of chat-completion requests: what Groq, OpenRouter and others share, and their own."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import Discriminator, Field, Tag

from tta_dev_primitives.deployments.sandbox.strict import Strict

__all__ = [
    "ChatBody",
    "Function",
    "GroqBody",
    "ImagePart",
    "JsonSchemaFormat",
    "NamedTool",
    "OpenAIBody",
    "OpenRouterBody",
    "TextPart",
]


class _CacheControl(Strict):
    type: Literal["ephemeral"]
    ttl: Literal["5m", "1h"] | None = None


class _CacheBreakpoint(Strict):
    mode: Literal["explicit"]


class TextPart(Strict):
    """A text part."""

    type: Literal["text"]
    text: str
    cache_control: _CacheControl | None = None
    prompt_cache_breakpoint: _CacheBreakpoint | None = None


class _ImageUrl(Strict):
    url: str
    detail: Literal["auto", "low", "high", "original"] | None = None


class ImagePart(Strict):
    """An image part; its content is not looked at."""

    type: Literal["image_url"]
    image_url: _ImageUrl


_Part = Annotated[TextPart | ImagePart, Field(discriminator="type")]


def _shape(value: Any) -> str:
    return "[str]" if isinstance(value, str) else "[list]"


_Content = Annotated[
    Annotated[str, Tag("[str]")] | Annotated[list[_Part], Field(min_length=1), Tag("[list]")],
    Discriminator(_shape),
]


class _System(Strict):
    role: Literal["system", "developer"]
    content: _Content
    name: str | None = None


class _User(Strict):
    role: Literal["user"]
    content: _Content
    name: str | None = None


class _Called(Strict):
    name: str
    arguments: str


class _ToolCall(Strict):
    id: str
    type: Literal["function"]
    function: _Called


class _Assistant(Strict):
    NULLABLE: ClassVar = frozenset({"content", "refusal", "reasoning", "function_call", "audio"})

    role: Literal["assistant"]
    content: _Content | None = None
    name: str | None = None
    refusal: str | None = None
    reasoning: str | None = None
    reasoning_details: list[dict[str, Any]] | None = None
    tool_calls: list[_ToolCall] | None = None
    function_call: _Called | None = None


class _ToolMessage(Strict):
    role: Literal["tool"]
    content: _Content
    tool_call_id: str


class _FunctionMessage(Strict):
    NULLABLE: ClassVar = frozenset({"content"})

    role: Literal["function"]
    content: str | None
    name: str


class Function(Strict):
    """A function that the model may call."""

    NULLABLE: ClassVar = frozenset({"strict"})

    name: str = Field(pattern=r"^[a-zA-Z0-9_-]{1,64}$")
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class _Tool(Strict):
    type: Literal["function"]
    function: Function
    cache_control: _CacheControl | None = None


class _Named(Strict):
    name: str


class NamedTool(Strict):
    """A choice of one tool by its name."""

    type: Literal["function"]
    function: _Named


class _JsonSchema(Strict):
    NULLABLE: ClassVar = frozenset({"strict"})

    name: str = Field(pattern=r"^[a-zA-Z0-9_-]{1,64}$")
    description: str | None = None
    schema_: dict[str, Any] | None = Field(None, alias="schema")
    strict: bool | None = None


class _TextFormat(Strict):
    type: Literal["text"]


class _JsonObjectFormat(Strict):
    type: Literal["json_object"]


class JsonSchemaFormat(Strict):
    """Structured output by a schema."""

    type: Literal["json_schema"]
    json_schema: _JsonSchema


class _StreamOptions(Strict):
    include_usage: bool = False
    include_obfuscation: bool = True


class ChatBody(Strict):
    """Fields that all three take; the dialects add theirs."""

    NULLABLE: ClassVar = frozenset(
        [
            "frequency_penalty",
            "logit_bias",
            "logprobs",
            "max_completion_tokens",
            "max_tokens",
            "n",
            "parallel_tool_calls",
            "presence_penalty",
            "reasoning_effort",
            "seed",
            "service_tier",
            "stop",
            "stream_options",
            "temperature",
            "top_logprobs",
            "top_p",
        ]
    )

    messages: list[
        Annotated[_System | _User | _Assistant | _ToolMessage | _FunctionMessage, Field(discriminator="role")]
    ]
    model: str
    frequency_penalty: float | None = None
    logit_bias: dict[str, float] | None = None
    logprobs: bool | None = None
    max_completion_tokens: int | None = None
    max_tokens: int | None = None
    n: int | None = None
    parallel_tool_calls: bool | None = None
    presence_penalty: float | None = None
    response_format: (
        Annotated[_TextFormat | _JsonObjectFormat | JsonSchemaFormat, Field(discriminator="type")] | None
    ) = None
    seed: int | None = None
    stop: str | list[str] | None = None
    stream: bool | None = None
    stream_options: _StreamOptions | None = None
    temperature: float | None = None
    tool_choice: Literal["none", "auto", "required"] | NamedTool | None = None
    tools: list[_Tool] | None = None
    top_logprobs: int | None = None
    top_p: float | None = None
    user: str | None = None


class GroqBody(ChatBody):
    """Groq's request."""

    NULLABLE: ClassVar = ChatBody.NULLABLE | frozenset(
        [
            "citation_options",
            "include_reasoning",
            "metadata",
            "reasoning_format",
            "response_format",
            "store",
            "stream",
            "tool_choice",
            "tools",
            "user",
        ]
    )

    include_reasoning: bool | None = None
    reasoning_effort: Literal["none", "default", "low", "medium", "high"] | None = None
    reasoning_format: Literal["hidden", "raw", "parsed"] | None = None
    service_tier: Literal["auto", "on_demand", "flex", "performance"] | None = None
    citation_options: Literal["enabled", "disabled"] | None = None
    disable_tool_validation: bool = False
    metadata: dict[str, str] | None = None
    store: bool | None = None


class _Reasoning(Strict):
    NULLABLE: ClassVar = frozenset({"effort", "max_tokens", "exclude", "enabled", "summary"})

    effort: Literal["max", "xhigh", "high", "medium", "low", "minimal", "none"] | None = None
    max_tokens: int | None = None
    exclude: bool | None = None
    enabled: bool | None = None
    summary: Literal["auto", "concise", "detailed"] | None = None


class _Preferences(Strict):
    NULLABLE: ClassVar = frozenset(
        [
            "allow_fallbacks",
            "require_parameters",
            "data_collection",
            "order",
            "only",
            "ignore",
            "quantizations",
            "sort",
            "zdr",
            "enforce_distillable_text",
            "max_price",
        ]
    )

    allow_fallbacks: bool | None = None
    require_parameters: bool | None = None
    data_collection: Literal["deny", "allow"] | None = None
    order: list[str] | None = None
    only: list[str] | None = None
    ignore: list[str] | None = None
    quantizations: list[str] | None = None
    sort: str | dict[str, Any] | None = None
    max_price: dict[str, Any] | None = None
    zdr: bool | None = None
    enforce_distillable_text: bool | None = None
    preferred_max_latency: float | dict[str, Any] | None = None
    preferred_min_throughput: float | dict[str, Any] | None = None


class _UsageOption(Strict):
    include: bool = False


class OpenRouterBody(ChatBody):
    """OpenRouter's request."""

    NULLABLE: ClassVar = ChatBody.NULLABLE | frozenset(
        ["min_p", "prompt_cache_key", "repetition_penalty", "route", "top_a", "top_k"]
    )

    model: str = ""
    models: list[str] | None = None
    provider: _Preferences | None = None
    reasoning: _Reasoning | None = None
    reasoning_effort: Literal["max", "xhigh", "high", "medium", "low", "minimal", "none"] | None = None
    include_reasoning: bool | None = None
    min_p: float | None = None
    repetition_penalty: float | None = None
    top_a: float | None = None
    top_k: int | None = None
    metadata: dict[str, str] | None = None
    modalities: list[Literal["text", "image", "audio"]] | None = None
    plugins: list[dict[str, Any]] | None = None
    preset: str | None = None
    prompt_cache_key: str | None = None
    route: Literal["fallback", "sort"] | None = None
    service_tier: Literal["auto", "default", "fast", "flex", "priority", "scale"] | None = None
    session_id: str | None = Field(None, max_length=256)
    trace: dict[str, Any] | None = None
    transforms: list[str] | None = None
    usage: _UsageOption | None = None
    cache_control: _CacheControl | None = None


class OpenAIBody(ChatBody):
    """The request of OpenAI and its likes."""

    NULLABLE: ClassVar = ChatBody.NULLABLE | frozenset(
        ["metadata", "modalities", "prompt_cache_retention", "store", "stream", "verbosity"]
    )

    metadata: dict[str, str] | None = None
    modalities: list[Literal["text"]] | None = None
    prompt_cache_key: str | None = None
    prompt_cache_retention: Literal["in-memory", "in_memory", "24h"] | None = None
    reasoning_effort: Literal["none", "minimal", "low", "medium", "high", "xhigh", "max"] | None = None
    safety_identifier: str | None = None
    service_tier: Literal["auto", "default", "flex", "scale", "priority", "fast"] | None = None
    store: bool | None = None
    verbosity: Literal["low", "medium", "high"] | None = None
