"""Reading a request: strict models of what the sandbox answers, and refusals that name path and reason."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, NoReturn, Protocol, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError, model_validator

from tta_dev_primitives.deployments.sandbox.chat import Failure, Refusal


class Strict(BaseModel):
    """A request object: unknown fields and wrong types are refused."""

    model_config = ConfigDict(extra="forbid", strict=True, protected_namespaces=())
    UNREAD: ClassVar[frozenset[str]] = frozenset()
    """Documented fields that do not change the answer: any value is accepted."""

    @model_validator(mode="before")
    @classmethod
    def _without_unread(cls, value: Any) -> Any:
        if isinstance(value, dict):
            return {name: inner for name, inner in value.items() if name not in cls.UNREAD}
        return value


M = TypeVar("M", bound=BaseModel)


@dataclass(frozen=True, slots=True)
class Fault:
    """Where a fault is, its pydantic type (`missing` ...), its sentence, the value found."""

    path: tuple[str | int, ...]
    type: str
    message: str
    value: Any


def validated(kind: type[M], body: Mapping[str, Any], refuse_fault: Callable[[Fault], NoReturn]) -> M:
    """Read `body` as `kind`; the most telling fault goes to `refuse_fault`."""
    try:
        return kind.model_validate(body)
    except ValidationError as error:
        # The deepest path: a union reports each of its branches, the wrong types among them.
        fault = max(error.errors(include_url=False), key=lambda f: (len(f["loc"]), "_type" not in f["type"]))
    path = tuple(part for part in fault["loc"] if isinstance(part, int) or _is_key(part))
    return refuse_fault(Fault(path, fault["type"], fault["msg"], fault["input"]))


def _is_key(part: str) -> bool:
    """Pydantic puts the branch of a union into the path (`str`, `list[Text]`): no key of the body."""
    return part not in {"str", "int", "float", "bool"} and "[" not in part and not part[:1].isupper()


def refuse(message: str, param: str | None = None, **facts: Any) -> NoReturn:
    """Refuse the request as invalid."""
    raise Refusal(Failure("invalid_request", message, param, facts=facts))


class Text(Protocol):
    """A part of a message that holds text."""

    @property
    def text(self) -> str:
        """The text."""


def plain(content: str | Sequence[Text] | None) -> str:
    """The text of a message, whole or in parts."""
    return content or "" if isinstance(content, str | None) else "\n".join(part.text for part in content)


def parse_body(body: bytes) -> dict[str, Any]:
    """Read a JSON object; anything else is refused, NaN and Infinity too."""

    def no_constant(name: str) -> NoReturn:
        raise ValueError(f"{name} is not JSON")

    try:
        value = json.loads(body, parse_constant=no_constant)
    except (ValueError, RecursionError) as error:
        refuse(f"We could not parse the JSON body of your request: {error}")
    if not isinstance(value, dict):
        refuse("The body is not a JSON object.")
    return value
