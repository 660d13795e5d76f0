"""Strict request models, and how their faults become a path and a sentence."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, ClassVar, NoReturn

from pydantic import (
    BaseModel,
    ConfigDict,
    ValidationError,
    ValidatorFunctionWrapHandler,
    field_validator,
    model_validator,
)
from pydantic.alias_generators import to_camel
from pydantic_core import PydanticCustomError

from tta_dev_primitives.deployments.sandbox.chat import Failure, Refusal

__all__ = ["Fault", "Proto", "Strict", "first_fault", "parse_body", "refuse"]


class Strict(BaseModel):
    """A request object: unknown fields, wrong types and stray nulls are refused.

    `NULLABLE` names the optional fields that the API takes as null too.
    """

    model_config = ConfigDict(extra="forbid", strict=True, protected_namespaces=())
    NULLABLE: ClassVar[frozenset[str]] = frozenset()

    @model_validator(mode="before")
    @classmethod
    def _no_null(cls, value: Any) -> Any:
        if isinstance(value, dict):
            known = {field.alias or name for name, field in cls.model_fields.items()}
            for name in (n for n, inner in value.items() if inner is None):
                if name in known and name not in cls.NULLABLE:
                    raise PydanticCustomError("null", "Input should not be null", {"field": name})
        return value


class Proto(BaseModel):
    """A Gemini request object: proto JSON takes each field in camelCase and in snake_case."""

    @field_validator("*", mode="wrap")
    @classmethod
    def _null_is_default(cls, value: Any, handler: ValidatorFunctionWrapHandler) -> Any:
        return None if value is None else handler(value)

    model_config = ConfigDict(
        extra="forbid",
        strict=True,
        alias_generator=to_camel,
        validate_by_alias=True,
        validate_by_name=True,
        protected_namespaces=(),
    )


@dataclass(frozen=True, slots=True)
class Fault:
    """Where a fault is, its pydantic type (`missing` ...), its sentence, what stood there."""

    path: tuple[str | int, ...]
    type: str
    message: str
    value: Any


def refuse(message: str, param: str | None = None, **facts: Any) -> NoReturn:
    """Refuse the request as invalid."""
    raise Refusal(Failure("invalid_request", message, param, facts=facts))


def parse_body(body: bytes) -> dict[str, Any]:
    """Read a JSON object; raises `ValueError` for anything else, NaN and Infinity included."""

    def no_constant(name: str) -> NoReturn:
        raise ValueError(f"{name} is not JSON")

    try:
        value = json.loads(body, parse_constant=no_constant)
    except RecursionError as error:
        raise ValueError("nested too deeply") from error
    if not isinstance(value, dict):
        raise ValueError("the body is not a JSON object")
    return value


def first_fault(error: ValidationError) -> Fault:
    """The most telling fault: the deepest path, since a union reports each of its branches."""
    faults = error.errors(include_url=False)
    deepest = max(faults, key=lambda f: len(f["loc"]))
    path = tuple(part for part in deepest["loc"] if _is_key(part))
    if deepest["type"] == "null":  # found by the object around the field
        path = (*path, deepest.get("ctx", {})["field"])
    return Fault(path, deepest["type"], deepest["msg"], deepest["input"])


def _is_key(part: str | int) -> bool:
    """Union branches put their type into the path (`str`, `list[TextBlock]`): no key of the body."""
    return isinstance(part, int) or not (
        part in {"str", "int", "float", "bool"} or "[" in part or part[:1].isupper()
    )
