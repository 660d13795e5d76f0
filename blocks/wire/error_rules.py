"""What an error reply means: the decision table as data, shared by every wire format.

A format reads its own codes first and falls back to `by_status`. A `Fault` says which class the error is,
what becomes of the hold, how long to wait and how far it reaches (this model, or the whole provider).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from tta_dev_primitives.blocks.redaction import redact
from tta_dev_primitives.blocks.wire.reading import HTML, at, flat, obj, rate_headers, seq, settled, text_of
from tta_dev_primitives.blocks.wire.retry_after import MAX_WAIT_S, NONSENSE, header_wait, try_again_in
from tta_dev_primitives.config.models.targets import Target, Usage
from tta_dev_primitives.config.provider_errors import ErrorClass, LedgerAction, ProviderError

_REL, _PRE = LedgerAction.RELEASE, LedgerAction.CHARGE_AT_BOUND
_BY_STATUS: Mapping[int, tuple[ErrorClass, LedgerAction]] = {
    400: (ErrorClass.INVALID_REQUEST, _REL),
    401: (ErrorClass.AUTH, _REL),
    402: (ErrorClass.QUOTA, _REL),
    403: (ErrorClass.AUTH, _REL),
    404: (ErrorClass.MODEL_GONE, _REL),
    408: (ErrorClass.TRANSIENT, _PRE),
    409: (ErrorClass.TRANSIENT, _PRE),
    410: (ErrorClass.MODEL_GONE, _REL),
    413: (ErrorClass.CONTEXT, _REL),
    425: (ErrorClass.TRANSIENT, _PRE),
    429: (ErrorClass.RATE_LIMIT, _REL),
    498: (ErrorClass.OVERLOADED, _REL),
    499: (ErrorClass.TRANSIENT, _PRE),
}
_PROVIDER_WIDE = frozenset({401, 402, 403})
_ID_HEADERS = ("request-id", "x-request-id", "x-generation-id")
_PASSING = frozenset({ErrorClass.TRANSIENT, ErrorClass.OVERLOADED})

CONTEXT_WORDS = re.compile(
    r"context.{0,12}(length|window|limit|size)|prompt is too long|input.{0,40}too long|too many tokens"
    r"|tokens? limit.{0,20}(reached|exceeded)|exceed.{0,20}token limit|token count.{0,40}exceeds"
    r"|maximum.{0,20}tokens.{0,20}allowed|reduce the length",
    re.IGNORECASE,
)
_LONG_LIMIT = re.compile(
    r"quota|per[ _-]?(day|month)|daily|monthly|billing|insufficient|credit|spend|usage limit|\b[RT]PD\b",
    re.IGNORECASE,
)


@dataclass(frozen=True, slots=True)
class ErrorBody:
    """The parts of an error reply, whatever shape they came in; absent parts are empty."""

    message: str = ""
    type: str = ""
    code: str = ""
    node: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Fault:
    """The verdict on one error reply."""

    error_class: ErrorClass
    ledger: LedgerAction
    message: str
    code: str = ""
    scope: str = "model"
    wait_s: float | None = None
    reset_at: float | None = None
    retryable: bool | None = None


def read_error(payload: Any) -> ErrorBody:
    """Find the error in any shape: `error`, `errors`, `detail`, `base_resp`, a list, or the reply itself."""
    root = payload[0] if isinstance(payload, list) and payload else payload
    top = obj(root)
    listed = [obj(entry) for entry in seq(top.get("errors"))]
    node = (
        obj(top.get("error")) or next((entry for entry in listed if entry), obj(top.get("base_resp"))) or top
    )
    return ErrorBody(
        message=_said(root),
        type=flat(node.get("type"), limit=80) or flat(top.get("type"), limit=80) * (node is not top),
        code=next((code for key in _CODE_KEYS if (code := _code(node.get(key)))), ""),
        node=node,
    )


_CODE_KEYS = ("code", "status_code", "statusCode", "error_code")
_STATUS_KEYS = ("code", "status", "status_code", "statusCode", "http_status", "error_code")
_INNER = ("error", "errors", "base_resp")
_SAID = ("message", "msg", "error_message", "error_description", "status_msg", "title", "detail")
_SAID_ELSE = ("details", "reason", "description", "response", "text")


def _said(value: Any, depth: int = 0) -> str:
    """The words of an error, wherever they stand in it."""
    if isinstance(value, str):
        return text_of(value).strip()
    if depth > 4:
        return ""
    if isinstance(value, list):
        return "; ".join(dict.fromkeys(filter(None, (_said(item, depth + 1) for item in value[:3]))))
    if not (node := obj(value)):
        return ""
    inner = [said for key in _INNER if (said := _said(node.get(key), depth + 1))]
    own = [
        said
        for key in _SAID
        if not isinstance(node.get(key), bool) and (said := _said(node.get(key), depth + 1))
    ]
    found = inner + own if not inner or isinstance(node.get("error"), str) else inner
    found = found or [said for key in _SAID_ELSE if (said := _said(node.get(key), depth + 1))]
    # A title and its detail are read together; what is said twice is shown once.
    return ": ".join(dict.fromkeys(said.rstrip(".") for said in found)) if len(found) > 1 else "".join(found)


def is_error(payload: Any) -> bool:
    """Whether a body with a good status is an error all the same: it says so, or says why and holds nothing else."""
    node = obj(payload[0] if isinstance(payload, list) and payload else payload)
    body = read_error(payload)
    if any(node.get(key) for key in ("error", "errors", "detail", "base_resp")):
        return True
    return bool(body.message) and (status_inside(body) is not None or len(node) <= 4)


def status_inside(body: ErrorBody) -> int | None:
    """The HTTP status that an error inside a good reply stands for: by its figures, its code, or its words."""
    for key in _STATUS_KEYS:
        text = _code(body.node.get(key))
        if text.isdigit() and (400 <= int(text) < 600 or int(text) in _FOREIGN):
            return _FOREIGN.get(int(text), int(text))
    for word in (body.code, body.type, text_of(body.node.get("status"))):
        if word.lower() in _STATUS_OF_WORD:
            return _STATUS_OF_WORD[word.lower()]
    return next((status for status, words in _STATUS_OF_WORDS if words.search(body.message[:2000])), None)


_FOREIGN = {1002: 429, 1004: 401, 1008: 402, 1026: 403, 1027: 403, 1039: 429, 2013: 400, 2049: 401, 2056: 402}
"""MiniMax's own figures."""
_STATUS_OF_WORD = {
    "invalid_request_error": 400,
    "invalid_request": 400,
    "authentication_error": 401,
    "invalid_api_key": 401,
    "unauthorized": 401,
    "insufficient_quota": 402,
    "insufficient_balance": 402,
    "payment_required": 402,
    "permission_error": 403,
    "forbidden": 403,
    "not_found_error": 404,
    "model_not_found": 404,
    "rate_limit_exceeded": 429,
    "rate_limit_error": 429,
    "too_many_requests": 429,
    "server_error": 500,
    "internal_server_error": 500,
    "overloaded_error": 529,
    "overloaded": 503,
    "service_unavailable": 503,
    "timeout": 504,
}
_STATUS_OF_WORDS = (
    (402, re.compile(r"insufficient (balance|credit|quota|funds)|out of credit|payment required", re.I)),
    (
        401,
        re.compile(r"(token|api.?key) is (invalid|expired)|invalid (api.?key|token)|unauthori[sz]ed", re.I),
    ),
    (429, re.compile(r"rate.?limit|too many requests", re.I)),
    (404, re.compile(r"model .{0,80}(not found|does not exist)|no such model", re.I)),
    (503, re.compile(r"overloaded|at capacity|temporarily unavailable", re.I)),
)


def _code(value: Any) -> str:
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value) if abs(value) < 10**9 else ""
    return flat(value, limit=80)


def by_status(
    status: int, body: ErrorBody, *, headers: Mapping[str, str], now: float, overloaded: bool = False
) -> Fault:
    """Judge by the HTTP status; the formats call this when their own codes say nothing.

    Args:
        overloaded: The body is an answer by which this provider turns requests away before it works on them. Any
            other 5xx may come from a gateway in front of a model that is at work: it may be billed.
    """
    if 300 <= status < 400:
        text = "answered with a redirect; redirects are never followed, correct base_url"
        return Fault(ErrorClass.REDIRECT, _REL, text)
    if status == 429:
        return limited(body, headers=headers, now=now)
    fallback = (ErrorClass.TRANSIENT, _PRE) if status >= 500 else (ErrorClass.INVALID_REQUEST, _REL)
    if status >= 500 and overloaded:
        fallback = (ErrorClass.OVERLOADED, _REL)
    error_class, ledger = _BY_STATUS.get(status, fallback)
    if status == 403 and body.type == HTML:
        return Fault(
            ErrorClass.CONNECT,
            _REL,
            f"a gateway on the way refused it with a page: {body.message}",
            code="blocked",
            retryable=False,
        )
    if status in (400, 413, 422, 500) and CONTEXT_WORDS.search(body.message[:4000]):
        error_class = ErrorClass.CONTEXT
    fault = Fault(
        error_class,
        ledger,
        body.message,
        code=body.code or body.type,
        scope="provider" if status in _PROVIDER_WIDE else "model",
    )
    wait = header_wait(headers, now)
    if status == 402 and wait is not None and wait <= MAX_WAIT_S:
        # OpenRouter refuses with 402 and Retry-After while other calls in flight hold the credit.
        return replace(
            fault, error_class=ErrorClass.RATE_LIMIT, scope="model", wait_s=wait, reset_at=now + wait
        )
    if error_class in _PASSING and wait is not None:
        return _waiting(fault, wait, now)
    return fault


def limited(
    body: ErrorBody,
    *,
    headers: Mapping[str, str],
    now: float,
    wait_s: float | None = None,
    per_minute: bool = False,
) -> Fault:
    """Judge a 429: a short wait is a rate limit, a long or absurd one an exhausted quota.

    Without any wait, words like "quota" or "per day" in the body make it a quota, unless the provider said
    `per_minute`; otherwise back off and retry.
    """
    wait = header_wait(headers, now) if wait_s is None else wait_s
    if wait is None:
        wait = try_again_in(body.message)
    fault = Fault(ErrorClass.RATE_LIMIT, _REL, body.message, code=body.code or body.type)
    if wait is None:
        long = not per_minute and _LONG_LIMIT.search(f"{body.code} {body.type} {body.message[:4000]}")
        return replace(fault, error_class=ErrorClass.QUOTA) if long else fault
    if wait > MAX_WAIT_S:
        reset_at = None if wait == NONSENSE else now + wait
        return replace(fault, error_class=ErrorClass.QUOTA, reset_at=reset_at)
    return replace(fault, wait_s=wait, reset_at=now + wait)


def _waiting(fault: Fault, wait: float, now: float) -> Fault:
    """A passing fault with a wait: honour a short one; a long one means that this model is out until then."""
    if wait <= MAX_WAIT_S:
        return replace(fault, wait_s=wait)
    return replace(fault, retryable=False, reset_at=None if wait == NONSENSE else now + wait)


def overridden(fault: Fault, headers: Mapping[str, str]) -> Fault:
    """Apply `x-should-retry` (Anthropic, OpenAI, Groq), which overrides what the status would say."""
    said = headers.get("x-should-retry", "").strip().lower()
    if said == "false":
        return replace(fault, retryable=False)
    if said == "true":
        again = fault.error_class is ErrorClass.INVALID_REQUEST
        return replace(
            fault, retryable=True, error_class=ErrorClass.TRANSIENT if again else fault.error_class
        )
    return fault


def after_start(fault: Fault, usage: Usage | None) -> Fault:
    """An error inside a 200: generation had begun, so the money may be gone, whatever the class."""
    return replace(fault, ledger=LedgerAction.SETTLE if settled(usage) else _PRE)


def unreadable(reason: str) -> Fault:
    """A 200 that cannot be read: the model ran, the answer is lost."""
    return Fault(ErrorClass.MALFORMED, _PRE, f"reply cannot be read: {reason}")


def error_of(
    target: Target,
    fault: Fault,
    *,
    status: int | None,
    headers: Mapping[str, str],
    usage: Usage | None = None,
    request_id: str | None = None,
    sent: bool = True,
) -> ProviderError:
    """Build the one exception of this layer from a verdict. `headers` are in lower case."""
    where = f"{target.provider} model {target.api_model}"
    code = f" {fault.code}" if fault.code and fault.code != str(status) else ""
    head = f"{where}: {fault.error_class}" + (f" (HTTP {status}{code})" if status is not None else "")
    said = flat(redact(fault.message[:2000]), limit=300)
    hint = _hint(target, fault)
    # Providers end their sentences or not: ours follows after one full stop.
    said = said.rstrip(".") if hint else said
    return ProviderError(
        redact(head + (f": {said}" if said else "") + (f". {hint}" if hint else ""))[:500],
        provider=target.provider,
        model=target.name,
        error_class=fault.error_class,
        status=status,
        retry_after_s=fault.wait_s,
        request_id=request_id or request_id_of(headers),
        ledger_action=fault.ledger,
        usage=usage,
        scope=fault.scope,
        reset_at=fault.reset_at,
        retryable=fault.retryable,
        code=fault.code or None,
        sent=sent,
        rate_headers=rate_headers(headers),
    )


def request_id_of(headers: Mapping[str, str], payload: Any = None) -> str | None:
    """The id that a provider's support asks for; it comes before a body that breaks off or cannot be read."""
    found = next((headers[name] for name in _ID_HEADERS if headers.get(name)), None)
    found = found or at(payload, "request_id") or at(payload, "x_groq", "id") or at(payload, "id")
    return flat(found, limit=120) or None


def _hint(target: Target, fault: Fault) -> str:
    match fault.error_class:
        case ErrorClass.CONNECT if fault.code == "blocked":
            return "Check the network of this machine: its proxy, VPN, firewall or country is refused"
        case ErrorClass.AUTH:
            return f"Check the key in {target.api_key_env or 'api_key_env'} or its block, and what it may do"
        case ErrorClass.MODEL_GONE:
            base = f" and base_url {target.base_url}" if target.base_url else ""
            return f"Check the model '{target.name}'{base}, or name another one"
        case ErrorClass.REDIRECT:
            return f"base_url is {target.base_url}" if target.base_url else ""
        case _:
            return ""
