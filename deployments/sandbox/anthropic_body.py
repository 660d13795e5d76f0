"""Fields of Anthropic Messages requests. Server tools and their results are not served."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import Discriminator, Field, Tag

from tta_dev_primitives.deployments.sandbox.strict import Strict

__all__ = ["CountBody", "DocumentBlock", "ImageBlock", "MessagesBody", "TextBlock", "Tool", "ToolResultBlock"]


class _CacheControl(Strict):
    type: Literal["ephemeral"]
    ttl: Literal["5m", "1h"] | None = None


class TextBlock(Strict):
    """A text block."""

    NULLABLE: ClassVar = frozenset(["cache_control", "citations"])

    type: Literal["text"]
    text: str
    cache_control: _CacheControl | None = None
    citations: list[dict[str, Any]] | None = None


class _Base64Image(Strict):
    type: Literal["base64"]
    media_type: Literal["image/jpeg", "image/png", "image/gif", "image/webp"]
    data: str


class _Base64Pdf(Strict):
    type: Literal["base64"]
    media_type: Literal["application/pdf"]
    data: str


class _PlainText(Strict):
    type: Literal["text"]
    media_type: Literal["text/plain"]
    data: str


class _Url(Strict):
    type: Literal["url"]
    url: str


class _File(Strict):
    type: Literal["file"]
    file_id: str


class ImageBlock(Strict):
    """An image block; its content is not looked at."""

    NULLABLE: ClassVar = frozenset(["cache_control", "transformations"])

    type: Literal["image"]
    source: Annotated[_Base64Image | _Url | _File, Field(discriminator="type")]
    cache_control: _CacheControl | None = None
    transformations: dict[str, Any] | None = None


class _Citations(Strict):
    enabled: bool = False


class DocumentBlock(Strict):
    """A document block; its content is not looked at, unless it is plain text."""

    NULLABLE: ClassVar = frozenset(["cache_control", "citations", "context", "title"])

    type: Literal["document"]
    source: Annotated[_Base64Pdf | _PlainText | _Url | _File, Field(discriminator="type")]
    cache_control: _CacheControl | None = None
    citations: _Citations | None = None
    context: str | None = None
    title: str | None = None


class _Thinking(Strict):
    type: Literal["thinking"]
    thinking: str
    signature: str


class _RedactedThinking(Strict):
    type: Literal["redacted_thinking"]
    data: str


class _ToolUse(Strict):
    NULLABLE: ClassVar = frozenset(["cache_control", "toolset_name"])

    type: Literal["tool_use"]
    id: str
    name: str
    input: dict[str, Any]
    cache_control: _CacheControl | None = None
    caller: dict[str, Any] | None = None
    toolset_name: str | None = None


class ToolResultBlock(Strict):
    """What a tool gave back."""

    NULLABLE: ClassVar = frozenset(["cache_control", "toolset_name"])

    type: Literal["tool_result"]
    tool_use_id: str
    content: str | list[Annotated[TextBlock | ImageBlock | DocumentBlock, Field(discriminator="type")]] = ""
    is_error: bool = False
    cache_control: _CacheControl | None = None
    toolset_name: str | None = None


_Block = Annotated[
    TextBlock | ImageBlock | DocumentBlock | _Thinking | _RedactedThinking | _ToolUse | ToolResultBlock,
    Field(discriminator="type"),
]


def _shape(value: Any) -> str:
    return "[str]" if isinstance(value, str) else "[list]"


_Content = Annotated[
    Annotated[str, Tag("[str]")] | Annotated[list[_Block], Tag("[list]")], Discriminator(_shape)
]
_SystemContent = Annotated[
    Annotated[str, Tag("[str]")] | Annotated[list[TextBlock], Tag("[list]")], Discriminator(_shape)
]


class _Message(Strict):
    role: Literal["user", "assistant", "system"]
    content: _Content


class Tool(Strict):
    """A tool of the caller."""

    NULLABLE: ClassVar = frozenset(["cache_control", "eager_input_streaming", "type"])

    name: str = Field(pattern=r"^[a-zA-Z0-9_-]{1,128}$")
    input_schema: dict[str, Any]
    description: str | None = None
    type: Literal["custom"] | None = None
    strict: bool = False
    cache_control: _CacheControl | None = None
    defer_loading: bool = False
    eager_input_streaming: bool | None = None
    allowed_callers: (
        list[
            Literal["direct", "code_execution_20250825", "code_execution_20260120", "code_execution_20260521"]
        ]
        | None
    ) = None
    input_examples: list[dict[str, Any]] | None = None


class _ToolChoice(Strict):
    type: Literal["auto", "any", "tool", "none"]
    name: str | None = None
    disable_parallel_tool_use: bool = False


class _Format(Strict):
    type: Literal["json_schema"]
    schema_: dict[str, Any] = Field(alias="schema")


class _OutputConfig(Strict):
    NULLABLE: ClassVar = frozenset(["effort", "format"])

    effort: Literal["low", "medium", "high", "xhigh", "max"] | None = None
    format: _Format | None = None


class _ThinkingConfig(Strict):
    NULLABLE: ClassVar = frozenset(["display"])

    type: Literal["enabled", "disabled", "adaptive", "between_tools"]
    budget_tokens: int | None = None
    display: Literal["summarized", "omitted"] | None = None


class _Metadata(Strict):
    NULLABLE: ClassVar = frozenset(["user_id"])

    user_id: str | None = None


class _Diagnostics(Strict):
    NULLABLE: ClassVar = frozenset(["previous_message_id"])

    previous_message_id: str | None = None


class _Container(Strict):
    NULLABLE: ClassVar = frozenset(["id", "skills"])

    id: str | None = None
    skills: list[dict[str, Any]] | None = None


class CountBody(Strict):
    """`POST /v1/messages/count_tokens`."""

    NULLABLE: ClassVar = frozenset(["cache_control"])

    model: str
    messages: list[_Message]
    system: _SystemContent | None = None
    tools: list[Tool] | None = None
    tool_choice: _ToolChoice | None = None
    thinking: _ThinkingConfig | None = None
    output_config: _OutputConfig | None = None
    cache_control: _CacheControl | None = None


class MessagesBody(CountBody):
    """`POST /v1/messages`."""

    NULLABLE: ClassVar = frozenset(["cache_control", "container", "diagnostics", "inference_geo", "speed"])

    max_tokens: int
    stop_sequences: list[str] | None = None
    stream: bool = False
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    metadata: _Metadata | None = None
    service_tier: Literal["auto", "standard_only"] | None = None
    speed: Literal["fast", "standard"] | None = None
    inference_geo: str | None = None
    container: str | _Container | None = None
    diagnostics: _Diagnostics | None = None
    user_profile_id: str | None = None
    workspace_id: str | None = None
