"""Requests for typed answers: the official SDKs' own types take them, for more than 60 schemas."""

from __future__ import annotations

import datetime
import enum
import json
import uuid
from dataclasses import dataclass
from decimal import Decimal
from typing import Annotated, Any, Literal, NotRequired

import pytest
from anthropic.lib._parse._transform import transform_schema
from google.genai import types
from openai.lib._pydantic import _ensure_strict_json_schema
from pydantic import BaseModel, Field
from strict_requests import faults
from typing_extensions import TypedDict
from wire_samples import PROVIDERS, target

from tta_dev_primitives.blocks.wire.formats import wire_format
from tta_dev_primitives.blocks.wire.structured import strict_schema
from tta_dev_primitives.blocks.wire.types import ChatRequest, Message
from tta_dev_primitives.flows.answers.output_type import OutputType


class Colour(enum.Enum):
    RED = "red"
    BLUE = "blue"


class Address(BaseModel):
    street: str
    zip: str = Field(pattern=r"^\d{5}$", description="five digits")
    country: Literal["DE", "FR"] = "DE"


class Person(BaseModel):
    name: str = Field(min_length=1, max_length=80)
    born: datetime.date | None = None
    home: Address
    work: Address | None = None
    tags: set[str] = set()


class Cat(BaseModel):
    kind: Literal["cat"]
    lives: int = Field(ge=1, le=9)


class Dog(BaseModel):
    kind: Literal["dog"]
    good: bool


class Owner(BaseModel):
    pet: Annotated[Cat | Dog, Field(discriminator="kind")]
    others: list[Cat | Dog]


class Node(BaseModel):
    value: int
    below: list[Node] = []


class Movie(TypedDict):
    title: str
    year: NotRequired[int]


@dataclass
class Point:
    x: float
    y: float = 0.0


class Wide(BaseModel):
    """More optional fields than Anthropic takes as unions."""

    a1: int | None
    a2: int | None
    a3: int | None
    a4: int | None
    a5: int | None
    a6: int | None
    a7: int | None
    a8: int | None
    a9: int | None
    b1: int | None
    b2: int | None
    b3: int | None
    b4: int | None
    b5: int | None
    b6: int | None
    b7: int | None
    b8: int | None


def of(**properties: Any) -> dict[str, Any]:
    return {"type": "object", "properties": properties, "required": list(properties)}


def nested(depth: int) -> dict[str, Any]:
    schema: dict[str, Any] = {"type": "string"}
    for _ in range(depth):
        schema = of(inner=schema)
    return schema


_SINGLE: list[Any] = [
    str, int, float, bool, Decimal, datetime.date, datetime.datetime, datetime.time, datetime.timedelta, uuid.UUID,
    bytes, Colour, Literal["a"], Literal["a", "b"], Literal[1, 2], Literal["a", 1, None],
    str | None, int | str, list[int], list[Colour], set[str], tuple[int, str], dict[str, int], dict[str, Address],
    list[list[int]], Address, Person, Owner, Node, Movie, Point, Wide, list[Person], Cat | Dog, list[Cat | Dog],
    Person | None, Annotated[int, Field(ge=0, multiple_of=5)], Annotated[str, Field(pattern="^a+$")],
]  # fmt: skip
_SCHEMAS: list[dict[str, Any]] = [
    of(a={"type": "string", "format": name})
    for name in ("date", "date-time", "time", "email", "uuid", "ipv4", "uri", "hostname", "duration")
] + [
    of(a={"enum": ["x", "y"]}),
    of(a={"enum": ["x", 1]}),
    of(a={"enum": ["x", None]}),
    of(a={"const": 3}),
    of(a={"type": ["string", "null"]}),
    of(a={"type": ["integer", "string"], "description": "a code"}),
    of(a={"oneOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}}]}),
    of(a={"anyOf": [of(b={"type": "integer"}), of(c={"type": "boolean"})]}),
    of(a={"allOf": [{"$ref": "#/$defs/b"}]}) | {"$defs": {"b": of(c={"type": "integer"})}},
    of(a={"allOf": [of(b={"type": "integer"}), of(c={"type": "integer"})]}),
    of(a={"type": "integer", "minimum": 0, "exclusiveMaximum": 9}),
    of(a={"type": "string", "minLength": 2, "maxLength": 5}),
    of(a={"type": "array", "items": {"type": "number"}, "minItems": 1, "uniqueItems": True}),
    of(a={"type": "array", "prefixItems": [{"type": "string"}, {"type": "integer"}]}),
    of(a={"type": "object", "additionalProperties": {"type": "integer"}}),
    of(a={"type": "object", "patternProperties": {"^x": {"type": "integer"}}}),
    of(a={"not": {"type": "string"}}),
    of(a={}),
    of(type={"type": "string"}, enum={"type": "integer"}, properties={"type": "boolean"}),
    of(**{"größe": {"type": "number"}, "with space": {"type": "string"}}),
    of(a={"type": "object", "properties": {"b": {"$ref": "#"}}}),
    {"type": "object", "properties": {"a": {"type": "string"}}, "additionalProperties": False},
    {"type": "object"},
    nested(4),
    nested(12),
    of(a={"enum": [f"v{n}" for n in range(1200)]}),
]
KINDS = [OutputType.of(one) for one in (*_SINGLE, *_SCHEMAS)]
MODES = {
    "anthropic": ("json_schema", "tool", "none"),
    "google-ai-studio": ("json_schema", "none"),
    "groq": ("json_schema", "json_object"),
    "openrouter": ("json_schema", "none"),
    "openai-compatible": ("json_schema", "json_object"),
}


def test_there_are_enough_schemas() -> None:
    """Unions, nested objects, enums, dates, recursion, maps."""
    assert len({kind.digest for kind in KINDS}) >= 60


@pytest.mark.parametrize("provider", PROVIDERS)
def test_the_sdks_take_every_request(provider: str) -> None:
    """Request types of the official SDKs, closed at every level; and what is inside the schema, by their own tools."""
    for kind in KINDS:
        for mode in MODES[provider]:
            body = body_of(provider, mode, kind)
            shown = f"{provider}, {mode}, {kind.digest[:300]}"
            assert faults(provider, body) == [], shown
            for fault in inner_faults(provider, body):
                raise AssertionError(f"{shown}: {fault}")
            if mode in ("none", "json_object"):
                assert "must satisfy this JSON Schema" in json.dumps(body), shown


def body_of(provider: str, mode: str, kind: OutputType) -> dict[str, Any]:
    request = ChatRequest((Message("user", "Extract."),), json_schema=kind.request_schema)
    wire = wire_format(provider).build(target(provider, json_mode=mode), request)
    return dict(wire.body)


def inner_faults(provider: str, body: dict[str, Any]) -> list[str]:
    """What the SDK's own schema tools find: Gemini's model is closed, OpenAI's and Anthropic's change nothing more."""
    if provider == "anthropic" and "output_config" in body:
        schema = body["output_config"]["format"]["schema"]
        return [] if _loosely(transform_schema(schema)) == _loosely(schema) else ["Anthropic would change it"]
    if provider == "google-ai-studio" and "responseJsonSchema" in body["generationConfig"]:
        types.JSONSchema.model_validate(body["generationConfig"]["responseJsonSchema"])
    response = body.get("response_format", {})
    if response.get("json_schema", {}).get("strict"):
        schema = response["json_schema"]["schema"]
        copy = json.loads(json.dumps(schema))
        return (
            []
            if _ensure_strict_json_schema(copy, path=(), root=copy) == schema
            else ["OpenAI would change it"]
        )
    return []


def _loosely(schema: Any) -> Any:
    """Without what Anthropic's tool leaves out or writes: the type beside an enum, descriptions."""
    if isinstance(schema, dict):
        listed = {"enum", "const"} & set(schema)
        dropped = ("description", "type") if listed else ("description",)
        return {key: _loosely(part) for key, part in schema.items() if key not in dropped}
    return [_loosely(part) for part in schema] if isinstance(schema, list) else schema


@pytest.mark.parametrize(
    ("provider", "wanted", "native"),
    [
        ("anthropic", Person, True),
        ("anthropic", Wide, False),
        ("anthropic", Node, False),
        ("anthropic", of(a={"type": "array", "items": {"type": "object"}}), False),
        ("anthropic", of(a={"oneOf": [{"type": "string", "maxLength": 3}, {"type": "null"}]}), True),
        ("google-ai-studio", Person, True),
        ("google-ai-studio", {"type": "object", "properties": {"a": {"not": {}}}}, False),
        ("openai-compatible", Person, True),
        ("openai-compatible", nested(12), False),
        ("openai-compatible", of(a={"enum": [f"v{n}" for n in range(1200)]}), False),
    ],
)
def test_beyond_a_providers_limits_words_ask_for_the_form(provider: str, wanted: Any, native: bool) -> None:
    """A schema that constrained decoding refuses is not sent as one; the answer is checked all the same."""
    body = body_of(provider, "json_schema", OutputType.of(wanted))
    found = {
        "anthropic": "output_config" in body,
        "google-ai-studio": "responseJsonSchema" in body.get("generationConfig", {}),
        "openai-compatible": body.get("response_format", {}).get("json_schema", {}).get("strict") is True,
    }
    assert found[provider] is native


def test_an_enum_says_the_type_of_its_values() -> None:
    """Strict modes want it; several types are a union."""
    schema = of(a={"enum": ["x", None]}, b={"enum": [1, 2]}, c={"const": True})
    strict = strict_schema(schema)
    assert strict is not None
    assert strict["properties"] == {
        "a": {"anyOf": [{"type": "string", "enum": ["x"]}, {"type": "null"}]},
        "b": {"type": "integer", "enum": [1, 2]},
        "c": {"type": "boolean", "const": True},
    }
