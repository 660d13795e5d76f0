"""Writes what the pages take from the code and from each other: options, variables, commands, the Python API, figures.

    python docs/generate.py            # rewrite the pages
    python docs/generate.py --check    # exit 1 when a page is out of date (a test does the same)

A page holds `<!-- generated: NAME -->` and `<!-- end generated -->`; what stands between them is replaced.
"""

from __future__ import annotations

import inspect
import re
import sys
import textwrap
from collections.abc import Callable, Iterator, Mapping
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

    sections: list[tuple[str, str, type[BaseModel]]] = [
        ("Global settings", "orchestration", o.OrchestrationConfig),
        ("Orchestrator", "orchestration.orchestrator", o.OrchestratorConfig),
        ("Executors", "orchestration.executors[]", o.ExecutorConfig),
        ("Fallback strategy", "orchestration.fallback_strategy", o.FallbackStrategy),
        ("Cost tracking", "orchestration.cost_tracking", o.CostTrackingConfig),
        ("Validation", "orchestration.validation", o.ValidationConfig),
        ("Review job", "orchestration.review", o.ReviewConfig),
        ("Price of your own", "price, in the orchestrator or an executor", o.PriceConfig),
        ("Limits of your key", "limits, in the orchestrator or an executor", o.LimitsConfig),
        ("What a model takes", "capabilities, in the orchestrator or an executor", o.CapabilitiesConfig),
    ]
    return "\n\n".join(f"### {title}\n\n`{path}`\n\n{_table(model)}" for title, path, model in sections)


def options_short() -> str:
    """One table of all options, for the README."""
    from tta_dev_primitives.config import options as o

    lines = ["| Option | Type | Default | Meaning |", "|--|--|--|--|"]
    for prefix, model in (
        ("", o.OrchestrationConfig),
        ("orchestrator.", o.OrchestratorConfig),
        ("executors[].", o.ExecutorConfig),
        ("fallback_strategy.", o.FallbackStrategy),
        ("cost_tracking.", o.CostTrackingConfig),
        ("validation.", o.ValidationConfig),
        ("review.", o.ReviewConfig),
    ):
        for name, kind, default, meaning in _rows(model):
            if prefix == "orchestrator." and name in o.ExecutorConfig.model_fields and name in _SHARED:
                continue
            shown = f"`{prefix}{name}`" + (" ¹" if prefix == "executors[]." and name in _SHARED else "")
            lines.append(f"| {shown} | {kind} | {default} | {meaning} |")
    lines += ["", "¹ in `orchestrator` as well."]
    return "\n".join(lines)


_SHARED = (
    "billing", "base_url", "api_model", "max_output_tokens", "timeout_s", "price", "limits", "capabilities",
)  # fmt: skip


def _table(model: type[BaseModel]) -> str:
    lines = ["| Option | Type | Default | Meaning |", "|--|--|--|--|"]
    lines += [f"| `{n}` | {k} | {d} | {m} |" for n, k, d, m in _rows(model)]
    return "\n".join(lines)


def _rows(model: type[BaseModel]) -> Iterator[tuple[str, str, str, str]]:
    schema = model.model_json_schema()
    for name, prop in schema["properties"].items():
        if "$ref" in prop or prop.get("items", {}).get("$ref"):
            continue
        default = "required" if name in schema.get("required", ()) else f"`{_yaml(model, name)}`"
        meaning = " ".join((model.model_fields[name].description or "").split()).replace("|", "\\|")
        yield name, _kind(prop), default, meaning


def _kind(prop: Mapping[str, Any]) -> str:
    if "enum" in prop:
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
    """Every command with its arguments and options."""
    from tta_dev_primitives.cli import app

    text = app.generate_docs(output_format="markdown", include_hidden=False, heading_level=2)
    text = re.sub(r"## Table of Contents\n.*?(?=\n\*\*Commands\*\*)", "", text, flags=re.S)
    # Its own anchor for the one command that is spelled as an option leads nowhere.
    text = re.sub(r"\[(`--install-completion`)\]\(#[\w-]+\)", r"\1", text)
    return re.sub(r"\n{3,}", "\n\n", text)


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
    """The public names, from their docstrings."""
    from tta_dev_primitives import blocks, config, flows, orchestration
    from tta_dev_primitives.flows import jobs

    parts: list[str] = []
    for module, names in (
        (orchestration, ["MultiModelWorkflow", "OrchestrationResult", "Attempt"]),
        (
            config,
            ["load_orchestration_config", "create_default_config", "OrchestrationConfig"],
        ),
        (flows, ["orchestrate", "orchestrate_bulk", "spend_report"]),
        (jobs, ["review_diff", "document_module", "generate_tests", "JobResult"]),
        (
            blocks,
            [
                "AnthropicCredentials",
                "GoogleAIStudioCredentials",
                "GroqCredentials",
                "OpenRouterCredentials",
                "OpenAICompatibleCredentials",
                "SpendLedger",
                "sync_blocks",
            ],
        ),
    ):
        parts.append(f"## `{module.__name__}`")
        parts += [_entry(name, getattr(module, name)) for name in names]
    return "\n\n".join(parts)


def _entry(name: str, value: Any) -> str:
    inner = getattr(value, "fn", value)
    lines = [f"### `{name}`", "", _doc(inner)]
    if inspect.isclass(inner):
        if issubclass(inner, BaseModel):
            lines += ["", _fields(inner)] if _fields(inner) else []
        for method, function in vars(inner).items():
            if method.startswith(("_", "model_")) or not inspect.isfunction(function) or not function.__doc__:
                continue
            lines += ["", f"#### `{name}.{method}`", "", _doc(function)]
    return "\n".join(lines)


def _fields(model: type[BaseModel]) -> str:
    rows = [
        f"| `{name}` | {_annotation(field.annotation)} | {' '.join((field.description or '').split())} |"
        for name, field in model.model_fields.items()
        if not name.startswith("_")
    ]
    return "\n".join(["| Field | Type | |", "|--|--|--|", *rows]) if rows else ""


def _annotation(kind: Any) -> str:
    text = kind.__name__ if inspect.isclass(kind) and not hasattr(kind, "__args__") else str(kind)
    text = re.sub(r"typing\.|tta_dev_primitives(?:\.\w+)+\.|decimal\.|pathlib\.", "", text)
    return "`" + text.replace("|", "\\|") + "`"


def _doc(value: Any) -> str:
    """A Google-style docstring as Markdown: its sections become lists."""
    text = inspect.getdoc(value) or ""
    lines, section = [], ""
    for line in text.splitlines():
        if re.fullmatch(r"(Args|Returns|Raises|Yields|Attributes|Example|Examples):", line):
            lines += ["", f"**{line}**", ""]
            section = line
        elif section in ("Returns:", "Yields:", "Example:", "Examples:"):
            lines.append(line.removeprefix("    "))
        elif section and re.match(r" {4}\S", line):
            found = re.match(r" {4}(\**[\w.]+)(?: \([^)]*\))?: (.*)", line)
            lines.append(f"- `{found[1]}`: {found[2]}" if found else f"- {line.strip()}")
        elif section and line.startswith("     "):
            lines.append(f"  {line.strip()}")
        else:
            lines.append(re.sub(r"(?<=\S) {2,}#", "  #", line))
    return re.sub(r"\n{3,}", "\n\n", textwrap.dedent("\n".join(lines))).strip()


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
    "options-short": options_short,
    "variables": variables,
    "commands": commands,
    "errors": errors,
    "licenses": licenses,
    "peers": peers,
    "python-api": python_api,
}


def main() -> int:
    """Rewrite the pages, or check them."""
    check = "--check" in sys.argv[1:]
    stale = []
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        new = updated(text)
        if new != text:
            stale.append(page)
            if not check:
                page.write_text(new, encoding="utf-8")
    for page in stale:
        print(f"{page.relative_to(DOCS.parent)}: {'out of date' if check else 'written'}")
    return 1 if check and stale else 0


if __name__ == "__main__":
    sys.exit(main())
