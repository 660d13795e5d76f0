"""The provider's own status, type, code and message for a failure; `errors.yaml` is the table."""

from __future__ import annotations

import functools
from importlib.resources import files
from typing import Any, NamedTuple

import yaml

from tta_dev_primitives.deployments.sandbox.chat import Failure

METRIC = {"rate_limit": "rpm", "token_limit": "tpm", "daily_limit": "rpd", "request_over_limit": "tpm"}
"""The limit that an error kind means when the failure names none."""


class ErrorForm(NamedTuple):
    """One failure in the words of one provider."""

    status: int
    type: str
    code: str | None
    message: str


@functools.cache
def _table() -> dict[str, dict[str, list[Any]]]:
    text = files("tta_dev_primitives.deployments.sandbox").joinpath("errors.yaml").read_text(encoding="utf-8")
    table: dict[str, dict[str, list[Any]]] = yaml.safe_load(text)
    return table


def error_form(provider: str, failure: Failure) -> ErrorForm:
    """The row of `failure` with its message; a failure's own message wins over the table's."""
    status, kind, code, text = _table()[provider][failure.kind]
    facts = {"model": "", "version": "v1beta", "limit": failure.limit or 50, **failure.facts}
    return ErrorForm(status, kind, code, failure.message or text.format(**facts))


def seconds(value: float | str) -> str:
    """A wait as the text of a header."""
    return value if isinstance(value, str) else f"{value:g}"
