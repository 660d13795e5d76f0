"""Findings of a review: read from a model's answer, checked against the diff, written in other tools' formats. Pure.

An answer is one line a finding (`- path:line: severity: message`), as a list or a table; or JSON, a list
of objects, alone or under `findings`. Sources: SARIF 2.1.0 (OASIS), workflow commands of GitHub Actions.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal
from urllib.parse import quote

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from tta_dev_primitives.flows.answers.strict_json import StrictJsonError, one_value
from tta_dev_primitives.flows.jobs.diffs import FileChange

Severity = Literal["high", "medium", "low"]

_LEVELS: dict[Severity, int] = {"low": 0, "medium": 1, "high": 2}
_SYNONYMS: Mapping[str, Severity] = {
    "critical": "high", "blocker": "high", "major": "high", "error": "high", "high": "high",
    "medium": "medium", "moderate": "medium", "warning": "medium",
    "low": "low", "minor": "low", "info": "low", "note": "low", "nit": "low",
}  # fmt: skip
_SARIF_LEVEL = {"high": "error", "medium": "warning", "low": "note"}
_GITHUB_LEVEL = {"high": "error", "medium": "warning", "low": "notice"}
_NOTHING = re.compile(r"\W*no (?:findings|issues|defects|problems)\b[^\n]{0,60}\W*", re.I)
_MARK = re.compile(r"^\s*(?:[-*+•]\s+|\d+[.)]\s+|\|\s*)?")
_DRESS = re.compile(r"[`*_\[\]|]+")
_PLACE = re.compile(
    r"^(?P<path>.+?):L?(?P<first>\d{1,9})(?:\s*(?:-|–|\.\.|to)\s*L?(?P<last>\d{1,9})|:\d+)?(?=[\s:;,)(–—-]|$)"
)
_LIVE = re.compile(
    r"(?<=\])(?=[(\[:])|(?<=<)(?=[A-Za-z/!?])|(?<=[a-z]:)(?=//)|(?<=www)(?=\.)|(?<=@)(?=\w)|(?<=mailto:)(?=\S)",
    re.I,
)
_LINK = re.compile(r"\]\([^)\s]{0,2000}\)")
_SAYS = re.compile(
    rf"^[\W_]*(?:severity[\W_]+)?(?P<severity>{'|'.join(_SYNONYMS)})(?![^\W_])"
    r"[`*_)\]]*(?:[:;,.|–—-]+[*_]*)?[\s:;,.|–—-]*(?P<message>.*)$",
    re.I | re.S,
)
_FILE = re.compile(r"[\w)\]-]\.[A-Za-z]\w{0,9}$|/")


class Finding(BaseModel):
    """One defect: where, how bad, what is wrong and what to do instead."""

    model_config = ConfigDict(frozen=True, strict=True)

    path: str = Field(min_length=1)
    first_line: int = Field(ge=1)
    last_line: int = Field(ge=1)
    severity: Severity
    message: str = Field(min_length=1)
    suggestion: str = ""


def read_findings(answer: str, change: FileChange) -> list[Finding] | None:
    """The findings of an answer, worst first; None when it can be read neither as findings nor as "no findings".

    A path that names the file in another way (`./`, `b/`, its last folders) is brought to the diff's form.
    """
    try:
        return _from_json(one_value(answer), change)
    except StrictJsonError:
        pass  # no JSON: lines of text
    findings = [one for line in answer.splitlines() if (one := _from_line(line, change)) is not None]
    if not findings and not _NOTHING.fullmatch(answer.strip()):
        return None
    return worst_first(findings)


def problems_of(answer: str, change: FileChange) -> list[str]:
    """Why an answer is no review of this change: unreadable, or citing what the diff does not show."""
    findings = read_findings(answer, change)
    if findings is None:
        return ["no finding can be read, and it does not say `No findings.`"]
    return list(dict.fromkeys(wrong for one in findings for wrong in _wrong(one, change)))


def worst_first(findings: Sequence[Finding]) -> list[Finding]:
    """The findings by severity; those of one severity in their order."""
    return sorted(findings, key=lambda one: -_LEVELS[one.severity])


def severe(findings: Sequence[Finding], level: Literal["high", "medium", "any"]) -> list[Finding]:
    """The findings at or above a level."""
    least = 0 if level == "any" else _LEVELS[level]
    return [one for one in findings if _LEVELS[one.severity] >= least]


def markdown(findings: Sequence[Finding]) -> str:
    """One line a finding."""
    lines = [
        f"- {_cited(one)}: {one.severity}: {_one_line(one.message)}"
        + (f" To fix: {_one_line(one.suggestion)}" if one.suggestion else "")
        for one in findings
    ]
    return inert("\n".join(lines)) or "No findings."


def inert(text: str) -> str:
    """The text without links, addresses, mentions, pictures and HTML: a space stands where they would begin."""
    return _LIVE.sub(" ", text)


def github(findings: Sequence[Finding]) -> str:
    """Workflow commands of GitHub Actions, which annotate the lines of a pull request."""
    lines = []
    for one in findings:
        text = _escaped(one.message + (f"\nTo fix: {one.suggestion}" if one.suggestion else ""))
        where = f"file={_escaped(one.path, more=True)},line={one.first_line},endLine={one.last_line}"
        lines.append(f"::{_GITHUB_LEVEL[one.severity]} {where},title=review {one.severity}::{text}")
    return "\n".join(lines)


def sarif(findings: Sequence[Finding], *, version: str) -> dict[str, Any]:
    """The findings as a SARIF 2.1.0 log."""
    rules = [
        {"id": f"review-{level}", "shortDescription": {"text": f"{level} severity"}} for level in _LEVELS
    ]
    results = [
        {
            "ruleId": f"review-{one.severity}",
            "level": _SARIF_LEVEL[one.severity],
            "message": {
                "text": inert(one.message + (f" To fix: {one.suggestion}" if one.suggestion else ""))
            },
            "locations": [
                {
                    "physicalLocation": {
                        "artifactLocation": {"uri": quote(one.path)},
                        "region": {"startLine": one.first_line, "endLine": one.last_line},
                    }
                }
            ],
        }
        for one in findings
    ]
    driver = {"name": "tta job review", "version": version, "rules": rules}
    return {
        "$schema": "https://json.schemastore.org/sarif-2.1.0.json",
        "version": "2.1.0",
        "runs": [{"tool": {"driver": driver}, "results": results}],
    }


def _from_json(value: Any, change: FileChange) -> list[Finding] | None:
    rows = value.get("findings") if isinstance(value, Mapping) else value
    if not isinstance(rows, list):
        return None
    findings = []
    for row in rows:
        if not isinstance(row, Mapping):
            return None
        first = row.get("first_line", row.get("line"))
        try:
            severity = _SYNONYMS.get(str(row.get("severity", "")).lower())
            one = Finding.model_validate(
                {
                    "path": _as_in_diff(str(row.get("path", row.get("file", ""))), change),
                    "first_line": first,
                    "last_line": row.get("last_line", first),
                    "severity": severity,
                    "message": row.get("message"),
                    "suggestion": row.get("suggestion") or "",
                }
            )
        except ValidationError:
            return None
        findings.append(one)
    return worst_first(findings)


def _from_line(line: str, change: FileChange) -> Finding | None:
    """The finding that a line of text is; None for prose, such as a line that begins with `host:port`."""
    if not line.strip():
        return None
    head = _LINK.sub(" ", _MARK.sub("", line, count=1))
    plain = _DRESS.sub("", head[:300]).strip()
    if line.lstrip().startswith("|"):
        plain = " ".join(cell.strip(" `*_[]") for cell in head.split("|"))
    place = _PLACE.match(plain)
    if place is None:
        return None
    path = _as_in_diff(place["path"].strip(), change)
    rest = plain[place.end() :] if line.lstrip().startswith("|") else _behind(head, place.end())
    says = _SAYS.match(rest)
    if path != change.path and (says is None or not _FILE.search(path)):
        return None
    severity = _SYNONYMS[says["severity"].lower()] if says is not None else "medium"
    message = says["message"] if says is not None else rest.lstrip("`*_])")
    if message.count("**") % 2:
        message = message.removesuffix("**")
    message = message.strip(" :;,|–—-") or "no reason given"
    first = int(place["first"])
    last = int(place["last"] or first)
    return Finding(
        path=path, first_line=max(first, 1), last_line=max(last, 1), severity=severity, message=message
    )


def _behind(text: str, count: int) -> str:
    """What stands behind so many characters of a text, its decoration and leading space not counted."""
    at = len(text) - len(text.lstrip("`*_[]| "))
    while count and at < len(text):
        count -= _DRESS.match(text[at]) is None
        at += 1
    return text[at:]


def _as_in_diff(path: str, change: FileChange) -> str:
    for name in (path, path.removeprefix("./"), re.sub(r"^[ab]/", "", path)):
        if name == change.path or (name and change.path.endswith(f"/{name}")):
            return change.path
    return path


def _wrong(one: Finding, change: FileChange) -> Iterator[str]:
    if one.path != change.path:
        yield f"cites {one.path[:80]}, which is not the file"
        return
    if one.last_line < one.first_line:
        yield f"cites lines {one.first_line}-{one.last_line}, which is no range"
    for line in dict.fromkeys((one.first_line, one.last_line)):
        if line not in change.lines:
            yield f"cites line {line}, which the diff does not show"


def _cited(one: Finding) -> str:
    last = f"-{one.last_line}" if one.last_line != one.first_line else ""
    return f"{one.path}:{one.first_line}{last}"


def _one_line(text: str) -> str:
    return " ".join(text.split())


def _escaped(text: str, *, more: bool = False) -> str:
    """Text in a workflow command: no text of a model can begin a command of its own."""
    text = text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")
    return text.replace(":", "%3A").replace(",", "%2C") if more else text
