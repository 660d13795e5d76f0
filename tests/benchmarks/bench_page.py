"""From the figures of `bench.py` to `docs/benchmarks.md` and its chart."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from statistics import median
from typing import Any

DOCS = Path(__file__).parents[2] / "docs"
FLOOR, OURS, NAIVE, TUNED, LITELLM, AGENT = (
    "httpx",
    "tta",
    "naive Prefect",
    "naive Prefect, tuned",
    "LiteLLM Router",
    "pydantic-ai PrefectAgent",
)
TITLES = {
    "W1": "W1: one call",
    "W2": "W2: a call that fails, then its fallback",
    "W3": "W3: plan, execute (a fallback in 1 of 5), validate",
}
AGENT_NOTE = (
    "`PrefectAgent` of pydantic-ai makes an agent durable: an agent run is a flow run, a model request a task run; its "
    "W3 is three agent runs, on `prefect server start`. It gives what `tta` does not: tools and toolsets, MCP servers, "
    "retries, timeouts and caching set for each tool (a tool call is a task run of its own), conversations and "
    "streamed events. `tta` gives what it does not: a ledger that holds the money before a call, quotas of free "
    "models, evidence before an answer is delivered, and bulk jobs that go on after a kill.",
)
Rows = Mapping[str, Mapping[str, Any]]


def p95(values: Sequence[float]) -> float:
    return sorted(values)[min(len(values) - 1, int(0.95 * len(values)))]


def _ms(value: float | None) -> str:
    return (
        "–" if value is None else f"{max(0.0, value):.0f}" if abs(value) >= 10 else f"{max(0.0, value):.1f}"
    )


def lines_of(workload: str, rows: Rows) -> list[str]:
    """The table of one workload as plain lines."""
    found = []
    for name, row in rows.items():
        over, cpu, server = row["overhead_ms"], median(row["cpu_ms"]), row["server_cpu_ms"]
        found.append(
            f"{workload} {name:26} overhead {median(over):7.1f} ms  p95 {p95(over):7.1f}  cpu {cpu:6.1f} ms"
            + ("" if server is None else f"  server cpu {server:6.1f} ms")
        )
    return found


def ratio_by_round(rows: Rows, of: str, to: str) -> float | None:
    """Median over the rounds of one contender's overhead divided by another's in the same round."""
    if of not in rows or to not in rows:
        return None
    pairs = zip(rows[of]["overhead_ms"], rows[to]["overhead_ms"], strict=True)
    return median(a / b for a, b in pairs if b > 0)


def _interactive_table(rows: Rows) -> list[str]:
    floor = median(rows[FLOOR]["overhead_ms"])
    found = [
        "| | overhead, median ms | p95 ms | × floor | client CPU ms | server CPU ms |",
        "|--|--:|--:|--:|--:|--:|",
    ]
    for name, row in sorted(rows.items(), key=lambda entry: median(entry[1]["overhead_ms"])):
        over = row["overhead_ms"]
        shown = f"**{name}**" if name == OURS else name
        found.append(
            f"| {shown} | {_ms(median(over))} | {_ms(p95(over))} | {median(over) / floor:.1f} | "
            f"{_ms(median(row['cpu_ms']))} | {_ms(row['server_cpu_ms'])} |"
        )
    return found


def _bulk_table(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    found = [
        "| | open calls | items | items/s | × floor | client CPU ms an item | peak MiB |",
        "|--|--:|--:|--:|--:|--:|--:|",
    ]
    floors = {row["concurrency"]: row["rate"] for row in rows if row["name"] == "httpx"}
    for row in rows:
        name = "**tta**" if row["name"] == "ours" else row["name"]
        found.append(
            f"| {name} | {row['concurrency']} | {row['items']} | {row['rate']:.0f} | "
            f"{row['rate'] / floors[row['concurrency']]:.1f} | {row['cpu_ms']:.1f} | {row['peak_mib']:.0f} |"
        )
    return found


def targets(figures: Mapping[str, Any]) -> list[tuple[str, float | None, float]]:
    """What is aimed at: words, found, limit."""
    w3 = figures["interactive"]["W3"]
    cold, helped = figures["cold"], figures["help"]
    return [
        ("W3 overhead / naive Prefect's", ratio_by_round(w3, OURS, NAIVE), 0.45),
        (
            "W1 overhead / pydantic-ai PrefectAgent's",
            ratio_by_round(figures["interactive"]["W1"], OURS, AGENT),
            0.6,
        ),
        ("W3 overhead / LiteLLM Router's", ratio_by_round(w3, OURS, LITELLM), 2.0),
        (
            "cold start of `tta run` / naive Prefect's, the first time",
            cold["tta run"]["first_s"] / cold[NAIVE]["first_s"],
            0.6,
        ),
        (
            "cold start of `tta run` / naive Prefect's, later",
            median(cold["tta run"]["s"]) / median(cold[NAIVE]["s"]),
            0.6,
        ),
        (
            "`tta --help` / `import cyclopts`",
            median(helped["tta --help"]) / median(helped["import cyclopts"]),
            3.0,
        ),
    ]


def bulk_targets(rows: Sequence[Mapping[str, Any]]) -> list[tuple[str, float, float, bool]]:
    """What bulk work aims at: words, found, limit, whether the limit is the least that will do (else the most)."""
    at = {(row["name"], row["concurrency"]): row for row in rows}

    def rate(peer: str, concurrency: int) -> float:
        return float(at["ours", concurrency]["rate"] / at[peer, concurrency]["rate"])

    found = [
        ("bulk at 50 / bare aiohttp loop", rate("httpx+aiohttp", 50), 0.6, True),
        ("bulk at 50 / raw httpx", rate("httpx", 50), 3.0, True),
        ("bulk at 50 / naive Prefect", rate("naive prefect", 50), 8.0, True),
    ]
    if ("ours", 200) in at:
        cpu = at["ours", 200]["cpu_ms"] / at["httpx+aiohttp", 200]["cpu_ms"]
        found += [
            ("bulk at 200 / raw httpx", rate("httpx", 200), 6.0, True),
            ("bulk CPU an item / bare aiohttp loop's, at 200", cpu, 1.5, False),
        ]
    return found


def _targets_table(figures: Mapping[str, Any]) -> list[str]:
    found = ["| | measured | aim | |", "|--|--:|--:|--|"]
    for words, value, limit in targets(figures):
        shown = "not measured" if value is None else f"{value:.2f}"
        verdict = "" if value is None else "met" if value <= limit else "missed"
        found.append(f"| {words} | {shown} | ≤ {limit} | {verdict} |")
    for words, value, limit, least in bulk_targets(figures["bulk"]):
        met = value >= limit if least else value <= limit
        verdict = "met" if met else "missed"
        found.append(f"| {words} | {value:.2f} | {'≥' if least else '≤'} {limit} | {verdict} |")
    for words, met in figures["ledger"]["targets"].items():
        found.append(f"| {words} | | | {'met' if met else 'missed'} |")
    return found


def _cold_table(cold: Mapping[str, Any]) -> list[str]:
    found = [
        "| until the first request is at the provider | median s | with an empty home, s |",
        "|--|--:|--:|",
    ]
    for name, row in cold.items():
        found.append(f"| {name} | {median(row['s']):.1f} | {row['first_s']:.1f} |")
    return found


def _ledger_table(figures: Mapping[str, Mapping[str, float]]) -> list[str]:
    found = ["| reserve + settle | a second | times two bare INSERT + COMMIT | p99 ms |", "|--|--:|--:|--:|"]
    for name, row in figures.items():
        ratio = f"{row['ratio']:.2f}" if "ratio" in row else "–"
        found.append(f"| {name} | {row['per_s']:.0f} | {ratio} | {_ms(row.get('p99_ms'))} |")
    return found


def _memory_table(memory: Mapping[str, Mapping[str, float | None]]) -> list[str]:
    found = ["| | client, peak MiB | Prefect server, peak MiB |", "|--|--:|--:|"]
    return found + [
        f"| {n} | {_ms(row['client_mib'])} | {_ms(row['server_mib'])} |" for n, row in memory.items()
    ]


def chart(rows: Rows) -> str:
    """Overhead of W3 as bars, with the 95th percentile as a thin line."""
    ordered = sorted(rows.items(), key=lambda entry: median(entry[1]["overhead_ms"]))
    width, left, bar, gap, top = 760, 210, 22, 14, 56
    most = max(p95(row["overhead_ms"]) for _, row in ordered)
    scale = (width - left - 90) / most
    height = top + len(ordered) * (bar + gap) + 12
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" role="img" '
        'font-family="system-ui, sans-serif" font-size="14">',
        "<title>Overhead of one orchestration beyond the provider's latency</title>",
        f'<rect width="{width}" height="{height}" fill="#ffffff"/>',
        '<text x="16" y="24" font-size="16" font-weight="600" fill="#1f2933">'
        "Overhead of one orchestration (W3), ms beyond the provider's latency</text>",
        '<text x="16" y="43" font-size="12" fill="#616e7c">bar: median; line: 95th percentile; less is better</text>',
    ]
    for index, (name, row) in enumerate(ordered):
        y = top + index * (bar + gap)
        middle, tail = (
            max(0.0, value) * scale for value in (median(row["overhead_ms"]), p95(row["overhead_ms"]))
        )
        colour = "#2b6cb0" if name == OURS else "#9aa5b1"
        weight = "600" if name == OURS else "400"
        parts += [
            f'<text x="{left - 10}" y="{y + 16}" text-anchor="end" font-weight="{weight}" fill="#1f2933">'
            f"{escape(name)}</text>",
            f'<rect x="{left}" y="{y}" width="{max(1.0, middle):.1f}" height="{bar}" fill="{colour}"/>',
            f'<line x1="{left}" x2="{left + tail:.1f}" y1="{y + bar / 2}" y2="{y + bar / 2}" stroke="#52606d"/>',
            f'<text x="{left + max(middle, tail) + 8:.1f}" y="{y + 16}" fill="#1f2933">'
            f"{_ms(median(row['overhead_ms']))}</text>",
        ]
    return "\n".join([*parts, "</svg>\n"])


def write_page(figures: Mapping[str, Any]) -> None:
    """Write the page and its chart."""
    (DOCS / "images" / "benchmarks.svg").write_text(chart(figures["interactive"]["W3"]))
    (DOCS / "benchmarks.md").write_text(page(figures))


def page(figures: Mapping[str, Any]) -> str:
    """The Markdown page."""
    found, machine = figures["interactive"], figures["machine"]
    tuned = ratio_by_round(found["W3"], OURS, TUNED)
    behind = median(found["W3"][OURS]["behind_ms"])
    count = len(found["W3"][OURS]["overhead_ms"])
    versions = ", ".join(f"{name} {number}" for name, number in machine["versions"].items())
    parts: list[str] = [
        "# Benchmarks",
        "",
        "What an orchestration costs beyond the time of the models. One command writes this page:",
        "",
        "<!-- not run: takes twenty minutes -->",
        "```bash",
        "make bench                                 # everything, with the chart",
        "python tests/benchmarks/bench.py --quick   # a few rounds, printed only",
        "# peers from environments of their own:",
        "LITELLM_PYTHON=…/bin/python PYDANTIC_AI_PYTHON=…/bin/python make bench",
        "```",
        "",
        f"Measured on {machine['date']}: {machine['cores']} cores of {machine['cpu']}, {machine['system']}; "
        f"{versions}. Load average {machine['load_before']:.1f} before and {machine['load_after']:.1f} after: "
        "ratios and CPU are more reliable than milliseconds.",
        "",
        *([figures["note"], ""] if "note" in figures else []),
        "## The aims",
        "",
        *_targets_table(figures),
        "",
        "Ratios of overheads are medians of the ratios within each round. Against naive Prefect on our tuned server "
        f"the W3 ratio is {'–' if tuned is None else f'{tuned:.2f}'}.",
        "",
        "## Interactive",
        "",
        "![Overhead of W3 for each contender](images/benchmarks.svg)",
        "",
        "Overhead is the wall time less the provider's latency "
        f"({figures['latency_ms']:.0f} ms a call). Each contender is a process that stays up: {count} rounds of W3, "
        "fewer of W1 and W2, in changing order. `httpx` is the floor: the same calls by hand. Naive Prefect is a "
        "flow of one task (W1, W2) or three (W3) and an artifact, on `prefect server start`; *tuned* is the same "
        "script on our server. `tta` also holds and settles every call in the ledger, checks the budget and stores "
        f"answers and evidence. Its artifacts follow the answer ({behind:.0f} ms, in its CPU, not in its wall time).",
        "",
    ]
    for workload, title in TITLES.items():
        parts += [f"**{title}**", "", *_interactive_table(found[workload]), ""]
    parts += [
        "Server CPU is that of the contender's own Prefect server, less what it uses when idle.",
        "",
        *AGENT_NOTE,
        "",
        "## Bulk (W4)",
        "",
        "W3 for many items; `tta` is the whole product with files, ledger, answer store and Prefect. "
        "Medians of three rounds. `python tests/benchmarks/bench_bulk.py` measures this part alone.",
        "",
        *_bulk_table(figures["bulk"]),
        "",
        "## Cold start",
        "",
        "From the prompt to the first request at the provider, without a server unless said. The naive script has "
        "three lines. `python tests/benchmarks/bench_start.py` measures this part alone.",
        "",
        *_cold_table(figures["cold"]),
        "",
        f"`tta --help` takes {1000 * median(figures['help']['tta --help']):.0f} ms, "
        f'`python -c "import cyclopts"` {1000 * median(figures["help"]["import cyclopts"]):.0f} ms.',
        "",
        "## Ledger",
        "",
        "A call is held before it is sent and settled after it: two durable transactions. "
        "`python -m tests.benchmarks.bench_ledger` measures this part alone.",
        "",
        *_ledger_table(figures["ledger"]["figures"]),
        "",
        "## Memory",
        "",
        *_memory_table(figures["memory"]),
    ]
    return "\n".join(parts) + "\n"
