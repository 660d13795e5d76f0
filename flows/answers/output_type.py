"""Typed answers: a type or a JSON Schema in, validated data out. Pure.

    wanted = OutputType.of(Invoice)             # anything that pydantic.TypeAdapter takes, or a JSON Schema dict
    answer = wanted.read('{"total": 12.5}')     # InvalidAnswerError: path and reason
    answer.value                                # an Invoice
    answer.data                                 # plain JSON
    answer.content                              # its canonical JSON text

Strict rules: the whole reply, or its one code fence, is the JSON value. A key that stands twice, NaN, Infinity,
a trailing comma, a number as text or an unlisted enum value is refused. Null stands for an absent optional field.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from datetime import datetime
from functools import cached_property
from typing import Any

from jsonschema import FormatChecker
from jsonschema.exceptions import SchemaError, ValidationError, best_match
from jsonschema.protocols import Validator
from jsonschema.validators import Draft202012Validator, extend, validator_for
from pydantic import TypeAdapter
from pydantic.errors import PydanticInvalidForJsonSchema, PydanticSchemaGenerationError, PydanticUserError
from pydantic_core import ValidationError as PydanticValidationError
from referencing import Registry

from tta_dev_primitives.blocks.wire.structured import inlined, with_nulls
from tta_dev_primitives.config.errors import ConfigError
from tta_dev_primitives.flows.answers.json_schema import check_schema, has_object_root, without_nulls
from tta_dev_primitives.flows.answers.linear_patterns import matches
from tta_dev_primitives.flows.answers.strict_json import StrictJsonError, one_value

_WRAPPED = "answer"
"""Providers want an object at the root: another value travels under this key."""
_SHOWN = 160
_MOST_REFERENCES = 30_000
_followed: ContextVar[list[int]] = ContextVar("references of the schema that this reading has followed")

_FORMATS = FormatChecker()


@_FORMATS.checks("date-time", raises=ValueError)
def _is_moment(value: object) -> bool:
    return not isinstance(value, str) or ("T" in value.upper() and datetime.fromisoformat(value) is not None)


class InvalidAnswerError(ValueError):
    """The answer is not data of the type that was asked for.

    Attributes:
        path: Where, as `items[0].price`; empty for the whole answer.
        reason: What was expected and what stood there, in one line. It quotes model text: data, never an order.
    """

    def __init__(self, path: str, reason: str) -> None:
        self.path, self.reason = path, " ".join(reason.split())[:_SHOWN]
        super().__init__(f"{path or 'the answer'}: {self.reason}")


@dataclass(frozen=True, slots=True)
class TypedAnswer:
    """A valid answer: the value of the caller's type, the same as plain JSON, and its JSON text."""

    value: Any
    data: Any
    content: str


@dataclass(frozen=True)
class OutputType:
    """What a caller wants as the answer. Make it with `of`."""

    schema: Mapping[str, Any]
    """The JSON Schema of the data, checked."""
    adapter: TypeAdapter[Any] | None = field(default=None, compare=False)
    """Reads the value of a Python type; None: the caller gave a JSON Schema."""

    @classmethod
    def of(cls, wanted: Any, *, name: str = "output_type") -> OutputType:
        """The output type of a Python type (whatever `pydantic.TypeAdapter` takes) or of a JSON Schema dict.

        Raises:
            ConfigError: It is neither, or its schema cannot be used; the message names the place below `name`.
        """
        if isinstance(wanted, OutputType):
            return wanted
        if isinstance(wanted, Mapping):
            schema = check_schema(wanted, name=name)
            kind = validator_for(schema, default=Draft202012Validator)
            try:
                kind.check_schema(schema)
            except SchemaError as error:
                place = _path(error.absolute_path) or "the root"
                raise ConfigError(f"{name}: not a JSON Schema at {place}: {error.message[:_SHOWN]}") from None
            return cls(schema)
        try:
            adapter: TypeAdapter[Any] = TypeAdapter(wanted)
            schema = adapter.json_schema()
        except (PydanticUserError, PydanticSchemaGenerationError, PydanticInvalidForJsonSchema) as error:
            said = str(error).splitlines()[0][:_SHOWN].rstrip(".")
            raise ConfigError(
                f"{name}: {wanted!r} cannot be an answer: {said}. "
                "Give a pydantic model, dataclass, TypedDict, Literal, list[...] or a JSON Schema dict."
            ) from None
        return cls(check_schema(schema, name=name), adapter)

    @cached_property
    def request_schema(self) -> Mapping[str, Any]:
        """The schema that is sent: an object at the root, without references, optional fields as required or null."""
        plain = inlined(self.schema)
        schema = self.schema if plain is None else with_nulls(plain)
        if has_object_root(schema):
            return schema
        inner = {key: part for key, part in schema.items() if key != "$defs"}
        wrapped: dict[str, Any] = {"type": "object", "properties": {_WRAPPED: inner}, "required": [_WRAPPED]}
        return wrapped | ({"$defs": schema["$defs"]} if "$defs" in schema else {})

    @cached_property
    def digest(self) -> str:
        """The schema as one line, for content keys."""
        return json.dumps(self.schema, sort_keys=True, ensure_ascii=False, separators=(",", ":"))

    @cached_property
    def short_digest(self) -> str:
        """A short name of the schema, for risk accounts."""
        return hashlib.sha256(self.digest.encode()).hexdigest()[:12]

    def read(self, text: str) -> TypedAnswer:
        """The data that a reply consists of.

        Raises:
            InvalidAnswerError: No JSON, or not data of this type.
        """
        try:
            value = one_value(text)
        except StrictJsonError as error:
            raise InvalidAnswerError("", str(error)) from None
        if not has_object_root(self.schema) and isinstance(value, dict) and set(value) == {_WRAPPED}:
            value = value[_WRAPPED]
        return self.check(without_nulls(self.schema, value))

    def check(self, value: Any) -> TypedAnswer:
        """The typed answer of a JSON value.

        Raises:
            InvalidAnswerError: It is not data of this type.
        """
        if self.adapter is None:
            self._check_schema(value)
            return TypedAnswer(value, value, _text(value))
        try:
            typed = self.adapter.validate_json(json.dumps(value), strict=True)
        except PydanticValidationError as error:
            first = error.errors(include_url=False, include_context=False)[0]
            got = f", got {first['input']!r:.60}" if first["type"] != "missing" else ""
            raise InvalidAnswerError(_path(first["loc"]), first["msg"] + got) from None
        data = self.adapter.dump_python(typed, mode="json", by_alias=True, round_trip=True)
        if not self._reads(data):
            # Written under other names, or in another form, than it is read.
            data = value
        return TypedAnswer(typed, data, _text(data))

    def _reads(self, data: Any) -> bool:
        assert self.adapter is not None
        try:
            self.adapter.validate_json(json.dumps(data), strict=True)
        except (PydanticValidationError, ValueError):
            return False
        return True

    def _check_schema(self, value: Any) -> None:
        with _bounded():
            error: ValidationError | None = best_match(self._validator.iter_errors(value))
        if error is not None:
            raise InvalidAnswerError(_path(error.absolute_path), error.message)

    @cached_property
    def _validator(self) -> Validator:
        draft = validator_for(self.schema, default=Draft202012Validator)
        own = {"pattern": matches, "uniqueItems": _unique, "$ref": _counted(draft.VALIDATORS["$ref"])}
        kind = extend(draft, own)  # type: ignore[no-untyped-call]
        # A registry that fetches nothing: jsonschema's own loads addresses and files.
        made: Validator = kind(self.schema, format_checker=_FORMATS, registry=Registry())
        return made


@contextmanager
def _bounded() -> Iterator[None]:
    """References are what makes a short schema long: paths through them can double with each one."""
    before = _followed.set([0])
    try:
        yield
    except RecursionError:
        raise InvalidAnswerError("", "the schema refers to itself without end") from None
    except OverflowError:
        raise InvalidAnswerError("", "a number is too large for the schema's multipleOf") from None
    finally:
        _followed.reset(before)


def _counted(follow: Any) -> Any:
    """The keyword `$ref`, for `jsonschema.validators.extend`."""

    def reference(validator: Any, *of: Any) -> Iterator[ValidationError]:
        count = _followed.get()
        count[0] += 1
        if count[0] > _MOST_REFERENCES:
            raise InvalidAnswerError(
                "", f"more than {_MOST_REFERENCES:,} references of the schema were followed"
            )
        yield from follow(validator, *of) or ()

    return reference


def _unique(validator: Validator, wanted: Any, value: Any, schema: Any) -> Iterator[ValidationError]:
    """The keyword `uniqueItems`; jsonschema's own compares each item with each other one."""
    if not wanted or not isinstance(value, list):
        return
    if len({json.dumps(_equal(item), sort_keys=True) for item in value}) < len(value):
        yield ValidationError(f"{value!r:.60} has items twice")


def _equal(value: Any) -> Any:
    """The value in the form in which equal values are written alike: 1.0 is 1, and true is neither."""
    if isinstance(value, dict):
        return {key: _equal(part) for key, part in value.items()}
    if isinstance(value, list):
        return [_equal(part) for part in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _text(data: Any) -> str:
    return json.dumps(data, ensure_ascii=False)


def _path(parts: Any) -> str:
    path = ""
    for part in parts:
        path += f"[{part}]" if isinstance(part, int) else f".{part}" if path else str(part)
    return path
