"""Writes what the pages take from the code and from each other, and the JSON Schema of the configuration file.

    python docs/generate.py            # rewrite pages and schema
    python docs/generate.py --check    # exit 1 when a page is out of date (a test does the same)

A page holds `<!-- generated: NAME -->` and `<!-- end generated -->`; what stands between them is replaced.
"""

from __future__ import annotations

import inspect
import json
import re
import sys
import textwrap
from collections.abc import Callable, Iterable, Iterator, Mapping
from importlib.metadata import PackageNotFoundError, metadata
from pathlib import Path
from typing import Any

from pydantic import BaseModel

DOCS = Path(__file__).resolve().parent
PAGES = sorted([DOCS.parent / "README.md", *DOCS.rglob("*.md")])
_PART = re.compile(r"(<!-- generated: ([a-z-]+) -->\n).*?(<!-- end generated -->)", re.S)


def updated(text: str) -> str:
    """The text of a page with its generated parts made anew."""
    return _PART.sub(lambda found: f"{found[1]}\n{PARTS[found[2]]().strip()}\n\n{found[3]}", text)


def options() -> str:
    """Every option of the configuration file, a table a section."""
    from tta_dev_primitives.config import options as o

    shared = [name for name in o.OrchestratorConfig.model_fields if name in o.ExecutorConfig.model_fields]
    own = ("model", "api_key_env", "provider")
    sections: list[tuple[str, str, type[BaseModel], Iterable[str]]] = [
        ("Global settings", "orchestration", o.OrchestrationConfig, ()),
        ("Orchestrator", "orchestration.orchestrator", o.OrchestratorConfig, own),
        ("Executors", "orchestration.executors[]", o.ExecutorConfig, (*own, "use_cases")),
        (
            "Orchestrator and executors",
            "also, in both",
            o.ExecutorConfig,
            [n for n in shared if n not in own],
        ),
        ("Fallback strategy", "orchestration.fallback_strategy", o.FallbackStrategy, ()),
        ("Cost tracking", "orchestration.cost_tracking", o.CostTrackingConfig, ()),
        ("Validation", "orchestration.validation", o.ValidationConfig, ()),
        ("Review job", "orchestration.review", o.ReviewConfig, ()),
        ("Price", "price, of a model", o.PriceConfig, ()),
        ("Limits of your key", "limits, of a model", o.LimitsConfig, ()),
        ("What a model takes", "capabilities, of a model", o.CapabilitiesConfig, ()),
    ]
    return "\n\n".join(f"### {title}\n\n`{path}`\n\n{_table(m, names)}" for title, path, m, names in sections)


def _table(model: type[BaseModel], names: Iterable[str]) -> str:
    rows = {row[0]: row for row in _rows(model)}
    lines = ["| Option | Type | Default | Meaning |", "|--|--|--|--|"]
    lines += [f"| `{n}` | {k} | {d} | {m} |" for n, k, d, m in (rows[name] for name in names or rows)]
    return "\n".join(lines)


def _rows(model: type[BaseModel]) -> Iterator[tuple[str, str, str, str]]:
    schema = model.model_json_schema()
    for name, prop in schema["properties"].items():
        if "$ref" in prop or prop.get("items", {}).get("$ref"):
            continue
        default = "required" if name in schema.get("required", ()) else f"`{_yaml(model, name)}`"
        meaning = " ".join((model.model_fields[name].description or "").split()).replace("|", "\\|")
        yield name, _kind(prop), default, meaning


def presets() -> str:
    """The providers whose address is known, a row each."""
    from tta_dev_primitives.config.models.providers import load_providers

    lines = ["| `provider` | Key | Plan by default | Address |", "|--|--|--|--|"]
    lines += [
        f"| `{one.name}` | `{one.api_key_env}` | {one.billing or 'must say `billing`'} | `{one.base_url}` |"
        for one in load_providers().values()
        if one.base_url is not None
    ]
    return "\n".join(lines)


_ELSEWHERE = {"speed-critical": "[use cases](#use-cases)", "groq": "[provider](#providers)"}
"""A value of a long list of choices, and where the page explains them all."""


def _kind(prop: Mapping[str, Any]) -> str:
    if "enum" in prop:
        for value, words in _ELSEWHERE.items():
            if value in prop["enum"]:
                return words
        return " \\| ".join(f"`{value}`" for value in prop["enum"])
    if "anyOf" in prop:
        kinds = [_kind(p) for p in prop["anyOf"] if p.get("type") != "null"]
        return " or ".join(dict.fromkeys(kinds))
    if "$ref" in prop:
        return "section"
    if prop.get("type") == "array":
        return f"list of {_kind(prop['items'])}"
    return {"boolean": "true/false", "integer": "whole number", "string": "text"}.get(
        prop.get("type", ""), prop.get("type", "text")
    )


def _yaml(model: type[BaseModel], name: str) -> str:
    value = model.model_fields[name].get_default(call_default_factory=True)
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    return "[" + ", ".join(map(str, value)) + "]" if isinstance(value, list) else str(value)


def variables() -> str:
    """The variables that override the file."""
    from tta_dev_primitives.config.overrides import OVERRIDES

    lines = ["| Variable | Overrides |", "|--|--|"]
    lines += [f"| `{name}` | `{'.'.join(path)}` |" for name, (path, _) in OVERRIDES.items()]
    return "\n".join(lines)


def commands() -> str:
    """Every command with its arguments and options, but for those that most commands have."""
    from tta_dev_primitives.cli import app

    text = app.generate_docs(output_format="markdown", include_hidden=False, heading_level=2)
    sections = [part.split("\n", 1) for part in re.split(r"^(?=#{3,4} )", text, flags=re.M)[1:]]
    names = [heading.strip("# ") for heading, _ in sections]
    kept, without_json = [], []
    for name, (heading, body) in zip(names, sections, strict=True):
        if "`--json" not in body and not any(other.startswith(f"{name} ") for other in names):
            without_json.append(f"`{name}`")
        body = re.sub(
            r"^\* `--(json`: Print one JSON document\.|config, -c PATH`: The config).*\n",
            "",
            body,
            flags=re.M,
        )
        body = re.sub(r"^\*\*(Arguments|Parameters)\*\*:\n\n", "", body, flags=re.M)
        body = re.sub(r"^```console\n[^\n]*(?:\[OPTIONS\]|\[ARGS\]|(?<=[a-z]))\n```\n", "", body, flags=re.M)
        body = re.sub(r"^\* (.*?) \*\[choices: (.*?)\]\*", _choices, body, flags=re.M)
        body = re.sub(r"^(\* .*\n)\n(?=\* )", r"\1", body, flags=re.M)
        kept.append(f"{heading}\n\n{body.strip()}")
    common = (
        f"`--json` prints one JSON document; all commands have it but {', '.join(without_json)}.\n"
        "`--config, -c PATH` names the configuration file; otherwise the usual places are searched."
    )
    return common + "\n\n" + re.sub(r"\n{3,}", "\n\n", "\n\n".join(kept))


def _choices(found: re.Match[str]) -> str:
    """A line without its choices, where its words have them already."""
    words, choices = found[1], found[2].split(", ")
    if "speed-critical" in choices:
        return f"* {words}".replace("Use case", "[Use case](configuration.md#use-cases)")
    return (
        f"* {words}"
        if all(choice in words for choice in choices)
        else found[0].replace("*[choices", "*[one of")
    )


def errors() -> str:
    """The tree of errors, as its module draws it."""
    from tta_dev_primitives.config import errors as module

    return f"```text\n{_first_tree(inspect.getdoc(module) or '')}\n```"


def _first_tree(text: str) -> str:
    lines = text.splitlines()
    start = next(n for n, line in enumerate(lines) if line.startswith("OrchestrationError"))
    end = next((n for n in range(start, len(lines)) if not lines[n].strip()), len(lines))
    return "\n".join(lines[start:end])


def python_api() -> str:
    """The public names, from their docstrings: a line each, then what one has to pass or gets back."""
    from tta_dev_primitives import blocks, config, flows, orchestration
    from tta_dev_primitives.flows import jobs

    parts: list[str] = []
    for module, names in (
        (orchestration, ["MultiModelWorkflow", "OrchestrationResult", "Attempt"]),
        (config, ["load_orchestration_config", "create_default_config", "OrchestrationConfig"]),
        (flows, ["orchestrate", "orchestrate_bulk", "spend_report"]),
        (jobs, ["review_diff", "document_module", "generate_tests", "JobResult"]),
        (blocks, ["SpendLedger", "sync_blocks", *_CREDENTIALS]),
    ):
        parts.append(f"## `{module.__name__}`")
        parts += [_entry(name, getattr(module, name)) for name in names]
    return "\n\n".join(parts)


_CREDENTIALS = [
    "AnthropicCredentials",
    "GoogleAIStudioCredentials",
    "GroqCredentials",
    "OpenRouterCredentials",
]
_CREDENTIALS += ["OpenAICompatibleCredentials"]
_INNER = ("learning_credit_of", "with_provenance", "ready")
_FIELDS = ("OrchestrationResult", "Attempt", "JobResult", "SpendLedger", _CREDENTIALS[-1])


def _entry(name: str, value: Any) -> str:
    inner = getattr(value, "fn", value)
    lines = [f"### `{name}`", "", _doc(inner)]
    if inspect.isclass(inner):
        if name in _FIELDS:
            lines += ["", _fields(inner)]
        for method, function in vars(inner).items():
            if (
                method.startswith(("_", "model_"))
                or method in _INNER
                or not inspect.isfunction(function)
                or not function.__doc__
            ):
                continue
            lines += ["", f"#### `{name}.{method}`", "", _doc(function)]
    return "\n".join(lines)


def _fields(model: type[BaseModel]) -> str:
    """The fields: those with a description as a table, the others in a line."""
    rows, plain = [], []
    for name, field in model.model_fields.items():
        words = " ".join((field.description or "").split())
        if words:
            rows.append(f"| `{name}` | {_annotation(field.annotation)} | {words} |")
        else:
            plain.append(f"`{name}`")
    table = "\n".join(["| Field | Type | |", "|--|--|--|", *rows]) if rows else ""
    return "\n\n".join(filter(None, (f"Fields: {', '.join(plain)}." if plain else "", table)))


def _annotation(kind: Any) -> str:
    text = kind.__name__ if inspect.isclass(kind) and not hasattr(kind, "__args__") else str(kind)
    text = re.sub(r"typing\.|pydantic\.types\.|tta_dev_primitives(?:\.\w+)+\.|decimal\.|pathlib\.", "", text)
    return "`" + text.replace("|", "\\|") + "`"


def _doc(value: Any) -> str:
    """A Google-style docstring as Markdown: its first paragraph, its arguments, the names of its errors."""
    text = inspect.getdoc(value) or ""
    parts = re.split(r"^(Args|Returns|Raises|Yields|Example|Examples):\n", text, flags=re.M)
    sections = {
        name: textwrap.dedent(body).strip("\n") for name, body in zip(parts[1::2], parts[2::2], strict=True)
    }
    lines = [parts[0].strip().split("\n\n")[0], ""]
    for argument in re.split(r"\n(?=\S)", sections.get("Args", "")):
        if found := re.match(r"(\**[\w.]+)(?: \([^)]*\))?: (.*)", argument, re.S):
            lines.append(f"- `{found[1]}`: {' '.join(found[2].split())}")
    if errors := re.findall(r"^(\w+): ", sections.get("Raises", ""), re.M):
        lines += ["", f"Raises {', '.join(f'`{name}`' for name in errors)}."]
    return re.sub(r"\n{3,}", "\n\n", "\n".join(lines)).strip()


_PEERS = {
    "tta": "this project",
    "LiteLLM Router": "LiteLLM Router",
    "pydantic-ai FallbackModel": "pydantic-ai FallbackModel",
    "httpx": "by hand (httpx)",
}


def peers() -> str:
    """Figures of the benchmarks beside those of other libraries, from the page that `make bench` writes."""
    page = (DOCS / "benchmarks.md").read_text(encoding="utf-8")
    lines = ["| | " + " | ".join(_PEERS.values()) + " |", "|--|" + "--:|" * len(_PEERS)]
    for label, heading, unit in (
        ("plan, execute, validate: time beyond the models' own, median", "**W3:", "ms"),
        ("a call that fails, then its fallback: the same", "**W2:", "ms"),
        ("peak memory of the client", "## Memory", "MiB"),
    ):
        table = page[page.index(heading) :]
        figures = []
        for name in _PEERS:
            row = re.search(rf"^\| (?:\*\*)?{re.escape(name)}(?:\*\*)? \| ([\d.,]+)", table, re.M)
            assert row is not None, f"benchmarks.md has no {name} below {heading}"
            figures.append(f"{row[1]} {unit}")
        lines.append(f"| {label} | " + " | ".join(figures) + " |")
    return "\n".join(lines)


def licenses() -> str:
    """Every package of requirements.txt with its licence, as the installed package states it."""
    names = re.findall(r"^([\w.-]+)==", (DOCS.parent / "requirements.txt").read_text(encoding="utf-8"), re.M)
    before = dict(
        re.findall(r"^\| `([^`]+)` \| (.+) \|$", (DOCS / "licenses.md").read_text(encoding="utf-8"), re.M)
    )
    found = {name: _license(name) or before.get(name) for name in sorted(set(names))}
    unknown = [name for name, stated in found.items() if stated is None]
    if unknown:
        raise SystemExit(f"licence of {', '.join(unknown)}: not installed. pip install -r requirements.txt")
    rows = [f"| `{name}` | {stated} |" for name, stated in found.items()]
    return "\n".join(["| Package | Licence |", "|--|--|", *rows])


def _license(name: str) -> str | None:
    """The licence of an installed package; None for one that this machine does not need."""
    try:
        found = metadata(name)
    except PackageNotFoundError:
        return None
    classes = [
        c.rpartition(" :: ")[2] for c in found.get_all("Classifier") or () if c.startswith("License ::")
    ]
    stated = found.get("License-Expression") or ", ".join(c for c in classes if c != "OSI Approved")
    first_line = (found.get("License") or "").strip().partition("\n")[0]
    return stated or (first_line if 0 < len(first_line) < 30 else "see its licence file")


PARTS: Mapping[str, Callable[[], str]] = {
    "options": options,
    "variables": variables,
    "commands": commands,
    "errors": errors,
    "licenses": licenses,
    "peers": peers,
    "presets": presets,
    "python-api": python_api,
}


SCHEMA = DOCS.parent / "config" / "orchestration-config.schema.json"


def schema() -> str:
    """The JSON Schema of the configuration file, for editors: from the options' own types, ranges and descriptions."""
    from tta_dev_primitives.config.options import ConfigFile

    head = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "TTA orchestration configuration",
    }
    made = {**head, **ConfigFile.model_json_schema(mode="validation"), **head}
    return json.dumps(made, indent=2, ensure_ascii=False) + "\n"


def main() -> int:
    """Rewrite the pages and the schema, or check them."""
    check = "--check" in sys.argv[1:]
    stale = []
    for page in [*PAGES, SCHEMA]:
        text = page.read_text(encoding="utf-8")
        new = schema() if page == SCHEMA else updated(text)
        if new != text:
            stale.append(page)
            if not check:
                page.write_text(new, encoding="utf-8")
    for page in stale:
        print(f"{page.relative_to(DOCS.parent)}: {'out of date' if check else 'written'}")
    return 1 if check and stale else 0


if __name__ == "__main__":
    sys.exit(main())
