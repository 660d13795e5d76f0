"""Kinds of values that options share: exact money, plain numbers, names, addresses."""

from __future__ import annotations

import re
from decimal import Decimal
from typing import Annotated, Any
from urllib.parse import urlsplit
from zoneinfo import ZoneInfo

from pydantic import AfterValidator, BeforeValidator, PlainSerializer, StrictStr, WithJsonSchema
from pydantic_core import PydanticCustomError

from tta_dev_primitives.config.hidden_url import HiddenUrl

MAX_USD = 1_000_000
"""The ledger's own range: 1e18 pico-USD."""
_PICO_PLACES = 12
_PRICE_PLACES = 6
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,127}", re.ASCII)
_KEY_SHAPES = re.compile(r"(sk|gsk|pk|AIza|AQ|xai|hf|ghp|key)[-_.]?[A-Za-z0-9_\-.]{20,}", re.ASCII)


def wrong(message: str) -> PydanticCustomError:
    """An error whose text is taken as it stands."""
    return PydanticCustomError("wrong", "{message}", {"message": message})


def looks_like_a_key(text: str) -> bool:
    """Whether `text` is shaped like an API key itself rather than like the name of a variable."""
    mixed = (
        any(c.islower() for c in text) and any(c.isupper() for c in text) and any(c.isdigit() for c in text)
    )
    return bool(_KEY_SHAPES.match(text)) or (len(text) >= 32 and mixed)


def _number(value: Any, low: int, high: int, form: str, places: int | None = None) -> Decimal:
    """An exact number from what YAML, a variable or code gives (a float by its shortest text)."""
    if isinstance(value, bool) or not isinstance(value, (int, float, Decimal)):
        quoted = isinstance(value, str) and re.fullmatch(r"\s*[-+]?[0-9.]+\s*", value)
        raise wrong(f"expected {form}" + (", without quotes" if quoted else ""))
    number = Decimal(repr(value)) if isinstance(value, float) else Decimal(value)
    if not (number.is_finite() and low <= number <= high):
        raise wrong(f"expected {form}")
    exponent = number.normalize().as_tuple().exponent
    if places is not None and isinstance(exponent, int) and -exponent > places:
        raise wrong(f"expected at most {places} decimals")
    return number.copy_abs()  # -0.0 is 0.0


def _fraction(value: Any) -> float:
    return float(_number(value, 0, 1, "a number from 0 to 1, such as 0.85"))


def usd_decimal(value: Any) -> Decimal:
    """Exact USD."""
    return _number(value, 0, MAX_USD, f"an amount in USD from 0 to {MAX_USD}, such as 100.0", _PICO_PLACES)


def _usd_per_mtok(value: Any) -> Decimal:
    form = "a price in USD per million tokens from 0 to 100000, such as 0.15"
    return _number(value, 0, 100_000, form, _PRICE_PLACES)


def _seconds(value: Any) -> float:
    return float(_number(value, 1, 3600, "seconds from 1 to 3600, such as 120"))


def _whole(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise wrong("expected a whole number")
    return value


def _model_name(value: Any) -> str:
    if not isinstance(value, str):
        raise wrong(
            "expected the name of a model as text" + (" (put it in quotes)" if value is not None else "")
        )
    if not value or len(value) > 200 or not value.isprintable() or " " in value:
        raise wrong("expected the name of a model: 1 to 200 characters without blanks")
    return value


def _variable_name(value: Any) -> str:
    form = "expected the name of an environment variable, such as GOOGLE_API_KEY"
    if not isinstance(value, str):
        raise wrong(form)
    if looks_like_a_key(value):
        raise wrong(
            f"{form}; this looks like a key itself: take it out of the file, and replace it if others saw it"
        )
    if not _VARIABLE.fullmatch(value):
        raise wrong(form)
    return value


def _address(value: Any) -> str:
    form = "expected an address such as https://host/v1 (no user, password, query or blanks)"
    if not isinstance(value, str) or not value.isascii() or not value.isprintable() or " " in value:
        raise wrong(form)
    try:
        parts = urlsplit(value)
        port = parts.port
    except ValueError:
        raise wrong(form) from None
    refused = parts.username is not None or parts.password is not None or parts.query or parts.fragment
    if parts.scheme not in ("http", "https") or not parts.hostname or refused or port == 0:
        raise wrong(form)
    return value.rstrip("/")


def _ledger_url(value: Any) -> str:
    if (
        not isinstance(value, str)
        or not re.match(r"sqlite:///.|postgresql://.", value)
        or not value.isprintable()
    ):
        raise wrong("expected sqlite:///path or postgresql://user@host/database")
    return value


def _zone(value: Any) -> str:
    form = "expected a time zone such as UTC or Europe/Berlin"
    if not isinstance(value, str) or not value:
        raise wrong(form)
    if value != "UTC":
        try:
            ZoneInfo(value)
        except (ValueError, OSError, KeyError):
            raise wrong(form) from None
    return value


Fraction = Annotated[
    float, BeforeValidator(_fraction), WithJsonSchema({"type": "number", "minimum": 0, "maximum": 1})
]
Usd = Annotated[
    float,
    BeforeValidator(lambda value: float(usd_decimal(value))),
    WithJsonSchema({"type": "number", "minimum": 0, "maximum": MAX_USD}),
]
UsdPerMtok = Annotated[
    Decimal,
    BeforeValidator(_usd_per_mtok),
    PlainSerializer(float, when_used="json"),  # at most 11 digits: exact
    WithJsonSchema({"type": "number", "minimum": 0, "maximum": 100_000}),
]
Seconds = Annotated[
    float, BeforeValidator(_seconds), WithJsonSchema({"type": "number", "minimum": 1, "maximum": 3600})
]
WholeNumber = Annotated[int, BeforeValidator(_whole)]
ModelName = Annotated[
    StrictStr,
    BeforeValidator(_model_name),
    WithJsonSchema({"type": "string", "minLength": 1, "maxLength": 200}),
]
VariableName = Annotated[
    StrictStr,
    BeforeValidator(_variable_name),
    WithJsonSchema({"type": "string", "pattern": "^[A-Za-z_][A-Za-z0-9_]{0,127}$"}),
]
Address = Annotated[
    StrictStr, BeforeValidator(_address), WithJsonSchema({"type": "string", "pattern": "^https?://"})
]
LedgerUrl = Annotated[
    StrictStr,
    BeforeValidator(_ledger_url),
    AfterValidator(HiddenUrl),
    WithJsonSchema({"type": "string", "pattern": "^(sqlite:///|postgresql://)"}),
]
ZoneName = Annotated[StrictStr, BeforeValidator(_zone), WithJsonSchema({"type": "string"})]
