"""Typed answers: which types and schemas are taken, which replies are data of the type, which fields agree."""

from __future__ import annotations

import datetime
import json
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, Field, computed_field
from typing_extensions import TypedDict

from tta_dev_primitives.config.errors import ConfigError
from tta_dev_primitives.flows.answers.fields import forms_of
from tta_dev_primitives.flows.answers.output_type import InvalidAnswerError, OutputType
from tta_dev_primitives.flows.answers.parts import Part


class Address(BaseModel):
    city: str
    zip: str


class Invoice(BaseModel):
    number: str
    issued: datetime.date
    total: Decimal
    currency: Literal["EUR", "USD"]
    address: Address
    note: str | None = None


class Movie(TypedDict):
    title: str
    year: int


@dataclass
class Point:
    x: int
    y: int


GOOD = {
    "number": "A-7",
    "issued": "2026-11-02",
    "total": 12.5,
    "currency": "EUR",
    "address": {"city": "Bonn", "zip": "53111"},
}


def test_a_models_reply_becomes_the_callers_type() -> None:
    """`value` is an instance of the type, `data` plain JSON, `content` its text."""
    answer = OutputType.of(Invoice).read(json.dumps(GOOD))
    assert answer.value == Invoice.model_validate(GOOD)
    assert answer.data["issued"] == "2026-11-02"
    assert json.loads(answer.content) == answer.data


@pytest.mark.parametrize(
    ("wanted", "text", "value"),
    [
        (Movie, '{"title": "Alien", "year": 1979}', {"title": "Alien", "year": 1979}),
        (Point, '```json\n{"x": 1, "y": 2}\n```', Point(1, 2)),
        (Literal["yes", "no"], '{"answer": "yes"}', "yes"),
        (Literal["yes", "no"], '"yes"', "yes"),
        (list[int], '{"answer": [1, 2]}', [1, 2]),
        ({"type": "object", "properties": {"a": {"type": "integer"}}}, '{"a": 1}', {"a": 1}),
    ],
)
def test_whatever_pydantic_takes_can_be_asked_for(wanted: Any, text: str, value: Any) -> None:
    """Models, dataclasses, TypedDicts, literals, lists and schema dicts; providers get an object at the root."""
    kind = OutputType.of(wanted)
    assert kind.read(text).value == value
    assert kind.request_schema.get("type") == "object" or "$ref" in kind.request_schema


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"total": "twelve"}, "total: "),
        ({"currency": "Euro"}, "currency: Input should be 'EUR' or 'USD'"),
        ({"issued": "02.11.2026"}, "issued: Input should be a valid date"),
        ({"address": {"city": "Bonn"}}, "address.zip: Field required"),
        ({"number": 7}, "number: Input should be a valid string, got 7"),
    ],
)
def test_a_wrong_value_is_refused_with_its_path(change: dict[str, Any], said: str) -> None:
    """The first fault is named by path, with what was expected and what stood there."""
    with pytest.raises(InvalidAnswerError) as caught:
        OutputType.of(Invoice).read(json.dumps(GOOD | change))
    assert str(caught.value).startswith(said)


@pytest.mark.parametrize(
    "text",
    [
        '{"a": 1,}',
        '{"a": NaN}',
        '{"a": 1, "a": 2}',
        'The answer: {"a": 1}',
        "",
        "[" * 50,
        '{"a": "1"}',
        '{"a": 1',
    ],
)
def test_what_is_not_plainly_the_data_is_refused(text: str) -> None:
    """Trailing commas, NaN, a key twice, prose, numbers as text: nothing is repaired in silence."""
    with pytest.raises(InvalidAnswerError):
        OutputType.of({"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}).read(
            text
        )


@pytest.mark.parametrize(
    ("schema", "said"),
    [
        ({"type": "objekt"}, "not a JSON Schema at type"),
        ({"$ref": "https://example.org/s.json"}, "at # leaves the schema"),
        ({"properties": {"a": {"$ref": "#/$defs/none"}}}, "at #/properties/a finds nothing"),
        ({"type": "object", "properties": {"a": {"$ref": "#"}}, "required": ["a"]}, "contains itself"),
        ({"description": "x" * 70_000}, "larger than 64 KiB"),
        ({"type": object()}, "not plain JSON"),
        (print, "cannot be an answer"),
    ],
)
def test_a_schema_that_cannot_be_used_is_refused_before_anything_is_spent(schema: Any, said: str) -> None:
    """The message names the argument and the place."""
    with pytest.raises(ConfigError, match="output_schema: ") as caught:
        OutputType.of(schema, name="output_schema")
    assert said in str(caught.value)


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(),
        lambda x: st.lists(x) | st.dictionaries(st.text(), x),
    )
)
def test_any_json_is_data_or_an_invalid_answer(value: Any) -> None:
    """No reply raises anything else: random JSON is never an invoice."""
    with pytest.raises(InvalidAnswerError, match=r"\A.*\Z"):
        OutputType.of(Invoice).read(json.dumps(value))


@pytest.mark.parametrize("pattern", ["^(a+)+$", "^(a|aa)+$", "(a*)*b", "^(([a-z])+.)+[A-Z]([a-z])+$"])
def test_no_pattern_makes_a_run_hang(pattern: str) -> None:
    """A schema from a file and a model's answer could stop a process for years; also as names of properties."""
    text = "a" * 40_000 + "!"
    wanted = OutputType.of({"type": "object", "properties": {"a": {"type": "string", "pattern": pattern}}})
    with pytest.raises(InvalidAnswerError, match="does not match"):
        wanted.read(json.dumps({"a": text}))
    with pytest.raises(ConfigError, match="for ever"):
        OutputType.of({"type": "object", "patternProperties": {pattern: {}}})
    with pytest.raises(ConfigError, match="for ever"):
        OutputType.of({"type": "string", "pattern": f"(?=x){pattern}"})


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "object", "properties": {"default": {"$ref": "http://127.0.0.1:9/x.json"}}},
        {"type": "object", "properties": {"enum": {"$ref": "file:///etc/passwd"}}},
        {"default": {"x": {"$ref": "http://127.0.0.1:9/"}}, "properties": {"a": {"$ref": "#/default/x"}}},
        {"properties": {"a": {"$id": "http://127.0.0.1:9/", "$ref": "#/$defs/b"}}, "$defs": {"b": {}}},
        {"properties": {"a": {"$ref": "#/$defs/%62"}}, "$defs": {"%62": {}, "b": {}}},
        {"properties": {"const": {"type": "string", "pattern": "^(?=a)(a+)+$"}}},
        {"type": "string", "pattern": "(?=x)" + "(x|xx|xxx)" * 30 + "!"},
        {"type": "string", "pattern": r"(.*)(.*)\1$"},
        {"type": "string", "pattern": "(?!b).*x.*y$"},
        {"type": "object", "patternProperties": {"(x|xx)" * 40 + "!": {}}},
        {"$ref": "#/$defs/0", "$defs": {str(n): {"anyOf": [{"$ref": f"#/$defs/{n + 1}"}] * 2} for n in range(30)}
         | {"30": {"type": "object", "required": ["a"], "properties": {"a": {"$ref": "#/$defs/30"}}}}},
    ],
)  # fmt: skip
def test_a_schema_loads_nothing_and_its_names_hide_nothing(schema: dict[str, Any]) -> None:
    """Names of properties may be keywords; data is no schema that a reference may use; no check takes long."""
    with pytest.raises(ConfigError, match=r"leaves|finds nothing|not supported|for ever|more than 50,000"):
        OutputType.of(schema)


def test_a_short_schema_of_many_paths_takes_no_time() -> None:
    """References that double the schema are refused; an answer follows so many references and no more."""
    parts = {str(n): {"allOf": [{"$ref": f"#/$defs/{n + 1}"}] * 2} for n in range(30)} | {
        "30": {"type": "object"}
    }
    with pytest.raises(ConfigError, match="make more than 50,000 parts"):
        OutputType.of({"$ref": "#/$defs/0", "$defs": parts})
    assert OutputType.of(
        {"$ref": "#/$defs/25", "$defs": {str(n): parts[str(n)] for n in range(25, 31)}}
    ).read("{}")
    paths = {"properties": {"n": {"anyOf": [{"$ref": "#"}] * 8}}, "additionalProperties": False}
    with pytest.raises(InvalidAnswerError, match="more than 30,000 references"):
        OutputType.of(paths).read('{"n":' * 18 + '{"x":1}' + "}" * 18)
    once = OutputType.of({"type": "array", "uniqueItems": True, "items": {"multipleOf": 0.5}})
    assert once.read(str(list(range(15_000))))
    assert once.read("[1, 0, 2.5, true]")
    with pytest.raises(InvalidAnswerError, match="items twice"):
        once.read("[1, 2, 1.0]")
    with pytest.raises(InvalidAnswerError, match="too large"):
        once.read(f"[{'9' * 400}]")
    endless = OutputType.of({"anyOf": [{"type": "string"}, {"$ref": "#"}]})
    with pytest.raises(InvalidAnswerError, match="without end"):
        endless.read("1")
    twice = {"properties": {"a": {"$ref": "#"}}}
    doubling = OutputType.of({"type": "object", "allOf": [twice, twice]})
    with pytest.raises(InvalidAnswerError, match="references"):
        doubling.read('{"a":' * 18 + "{}" + "}" * 18)


@pytest.mark.parametrize(
    ("pattern", "good", "bad"),
    [
        ("^[A-Z]{2}\\d+$", "AB12", "AB"),
        ("\\d", "a1b", "ab"),
        ("^(?!x)[a-z]+$", "abc", "xbc"),
        ("^(\\w)\\1$", "aa", "ab"),
    ],
)
def test_patterns_are_matched(pattern: str, good: str, bad: str) -> None:
    """Anywhere in the text unless anchored; with look-around and back-references too."""
    wanted = OutputType.of({"type": "string", "pattern": pattern})
    assert wanted.read(json.dumps(good)).value == good
    with pytest.raises(InvalidAnswerError, match="does not match"):
        wanted.read(json.dumps(bad))


def test_null_stands_for_an_absent_optional_field() -> None:
    """Providers are asked for every field; a null of an optional field that takes none is as if absent."""
    schema = {
        "type": "object",
        "properties": {
            "a": {"type": "integer"},
            "b": {"type": ["string", "null"]},
            "c": {"$ref": "#/$defs/c"},
        },
        "required": ["a"],
        "$defs": {"c": {"type": "object", "properties": {"d": {"enum": ["x"]}}}},
    }
    kind = OutputType.of(schema)
    assert kind.request_schema["required"] == ["a", "b", "c"]
    assert "$ref" not in json.dumps(kind.request_schema)
    assert kind.read('{"a": 1, "b": null, "c": {"d": null}}').data == {"a": 1, "b": None, "c": {}}
    with pytest.raises(InvalidAnswerError, match="a: None is not of type 'integer'"):
        kind.read('{"a": null, "b": null, "c": null}')


SCHEMA: dict[str, Any] = Invoice.model_json_schema()


def test_fields_are_compared_in_canonical_form() -> None:
    """White space, Unicode forms and spellings of one number do not make a difference; values do."""
    other = GOOD | {
        "total": 12.50,
        "number": "A\u20117".replace("\u2011", "-"),
        "address": {"city": " Bonn ", "zip": "53113"},
    }
    one, two = forms_of(SCHEMA, GOOD), forms_of(SCHEMA, other)
    assert list(one) == ["number", "issued", "total", "currency", "address.city", "address.zip", "note"]
    assert [path for path in one if one[path] != two[path]] == ["address.zip"]


def test_long_text_has_no_form() -> None:
    """Two summaries are never equal; they must be present, and that the schema says."""
    schema = {"type": "object", "properties": {"summary": {"type": "string"}}}
    assert forms_of(schema, {"summary": "one two three four five six seven"}) == {"summary": None}


@pytest.mark.parametrize(
    ("schema", "one", "two", "equal"),
    [
        ({"type": "array", "uniqueItems": True}, ["b", "a"], ["a", "b"], True),
        ({"type": "array"}, ["b", "a"], ["a", "b"], False),
        (
            {"type": "string", "format": "date-time"},
            "2026-01-01T01:00:00+01:00",
            "2026-01-01T00:00:00Z",
            True,
        ),
        ({"type": "string"}, "$1,250.00", "$1250", True),
        ({"type": "string", "enum": ["a", "A"]}, "a", "A", False),
        ({"type": "number"}, 1e3, 1000, True),
        ({"type": "boolean"}, True, 1, False),
    ],
)
def test_forms_by_type(schema: dict[str, Any], one: Any, two: Any, equal: bool) -> None:
    """Arrays are sequences unless the schema says sets; moments are equal across zones; enums are exact."""
    whole = {"type": "object", "properties": {"f": schema}}
    assert (forms_of(whole, {"f": one}) == forms_of(whole, {"f": two})) is equal


def test_disputed_fields_are_asked_again_alone_and_put_back() -> None:
    """The cut schema holds only the disputed fields, the answer's other fields stay."""
    part = Part.of(OutputType.of(Invoice), ["total", "address.zip", "note"], json.dumps(GOOD | {"note": "x"}))
    whole = part.whole('{"total": "13", "address": {"zip": "1"}, "note": null}')
    assert whole == GOOD | {"total": "13", "address": {"city": "Bonn", "zip": "1"}, "note": None}
    with pytest.raises(InvalidAnswerError, match="number"):
        part.whole('{"total": "13", "address": {"zip": "1"}, "number": "A-8"}')
    again = GOOD | {"total": 13.0, "number": "A-8", "address": {"city": "Köln", "zip": "1"}}
    assert part.whole(json.dumps(again)) == whole, "a whole object: only the disputed fields count"


class Lines(BaseModel):
    owner: Address | None = Field(alias="ownedBy")
    items: list[int]

    @computed_field
    def count(self) -> int:
        return len(self.items)


@pytest.mark.parametrize(
    ("reply", "whole"),
    [
        ('{"ownedBy": {"city": "Ulm"}}', {"ownedBy": {"city": "Ulm", "zip": "1"}, "items": [1]}),
        ('{"ownedBy": null}', {"ownedBy": None, "items": [1]}),
    ],
)
def test_a_part_of_an_optional_object(reply: str, whole: dict[str, Any]) -> None:
    """The cut object may be absent when the whole one may; other names and computed fields do no harm."""
    output = OutputType.of(Lines)
    part = Part.of(output, ["ownedBy.city"], '{"ownedBy": {"city": "Bonn", "zip": "1"}, "items": [1]}')
    assert part.whole(reply) == whole
    again = output.check(output.read(json.dumps(whole)).data)
    assert again.value == Lines.model_validate(whole)
