"""Scenario files: what they may say, which rule answers, quotas on a clock, and the default answers."""

from __future__ import annotations

import contextlib
import json
from dataclasses import replace
from datetime import datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sandbox_kit import MODELS, PROVIDERS, ask, text_of

from tta_dev_primitives.config.errors import ConfigError
from tta_dev_primitives.config.models.targets import Price
from tta_dev_primitives.deployments.sandbox import Sandbox, Scenario, load_scenario, parse_scenario
from tta_dev_primitives.deployments.sandbox.chat import Ask
from tta_dev_primitives.deployments.sandbox.scenario.answers import answer_for, solve
from tta_dev_primitives.deployments.sandbox.scenario.director import Director
from tta_dev_primitives.deployments.sandbox.scenario.samples import sample


def question(text: str = "Hello?", *, model: str = "m", system: str = "", **more: Any) -> Ask:
    """A request as the director sees it."""
    return Ask("openai-compatible", model, system, text, f"{system}\n{text}", **more)


def director(text: str, *, clock: Any = lambda: 0.0) -> Director:
    """A director of a scenario written as YAML."""
    return Director(parse_scenario(text), clock=clock)


def texts(director: Director, *asks: Ask) -> list[str]:
    """The answers' texts, or the kinds of errors."""
    got = []
    for one in asks:
        decision = director.decide(one, "key")
        got.append(
            decision.failure.kind if decision.failure else decision.answer.text if decision.answer else "raw"
        )
    return got


# Files


@pytest.mark.parametrize(
    ("text", "place", "message"),
    [
        ("rules: [{match: {modle: x}}]", "rules[0].match.modle", "did you mean model?"),
        ("quota: []", "quota", "did you mean quotas?"),
        ("rules: [{reply: {usage: {inptu: 1}}}]", "rules[0].reply.usage.inptu", "did you mean input?"),
        ("models: {m: {gonne: true}}", "models.m.gonne", "did you mean gone?"),
        ("rules: [{match: {regex: '('}}]", "rules[0].match.regex", "not a regular expression"),
        ("rules: [{match: {nth: 0}}]", "rules[0].match.nth", "counted from 1"),
        ("rules: [{match: {nth: often}}]", "rules[0].match.nth", "every 3"),
        (
            "rules: [{reply: {text: a, error: timeout}}]",
            "rules[0].reply",
            "text and error exclude each other",
        ),
        ("rules: [{reply: {body: a}}]", "rules[0].reply", "body needs a status"),
        ("rules: [{reply: {status: 99}}]", "rules[0].reply.status", "greater than or equal to 200"),
        ("rules: [{reply: {usage: {output: 1, thinking: 2}}}]", "rules[0].reply.usage", "part of output"),
        ("rules:\n- match: {model: a}\n  match: {model: b}", "rules[0].match", "duplicate key"),
        ("rules: &a []\nquotas: *a", "", "anchors"),
        ("- a", "", "expected keys such as rules:"),
        ("version: 2", "version", "1"),
        ("rules: [", "", "not valid YAML"),
    ],
)
def test_a_bad_scenario_names_line_key_and_mend(text: str, place: str, message: str) -> None:
    """Every content error says where and what; nothing unknown is passed over."""
    with pytest.raises(ConfigError) as error:
        parse_scenario(text, source="try.yaml")
    assert "try.yaml:" in str(error.value)
    assert place in str(error.value)
    assert message in str(error.value)


def test_a_missing_or_unreadable_file_is_named(tmp_path: Path) -> None:
    """No traceback for a wrong path or wrong bytes."""
    with pytest.raises(ConfigError, match=r"Scenario file not found: .*none\.yaml"):
        load_scenario(tmp_path / "none.yaml")
    (tmp_path / "latin.yaml").write_bytes(b"rules: [] # \xe9")
    with pytest.raises(ConfigError, match=r"latin\.yaml:1: not UTF-8"):
        load_scenario(tmp_path / "latin.yaml")


def test_json_and_yaml_say_the_same(tmp_path: Path) -> None:
    """A scenario may be written in either; an empty file is a scenario without rules."""
    (tmp_path / "a.json").write_text('{"rules": [{"match": {"nth": [1, "3+"]}, "reply": {"text": "x"}}]}')
    assert load_scenario(tmp_path / "a.json") == parse_scenario(
        "rules: [{match: {nth: [1, 3+]}, reply: {text: x}}]"
    )
    assert parse_scenario("") == Scenario()


KEYS = st.sampled_from(["version", "rules", "match", "reply", "nth", "text", "json", "usage", "error", "models",
                        "quotas", "rpm", "latency", "body", "x"])  # fmt: skip
VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-5, 10**12)
    | st.text(max_size=8)
    | st.sampled_from(["timeout", "missing"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=4),
    max_leaves=12,
)


@given(st.text(max_size=200) | st.dictionaries(KEYS, VALUES, max_size=4).map(json.dumps))
@settings(max_examples=300, deadline=None)
def test_no_content_makes_the_parser_raise_anything_but_its_own_error(content: str) -> None:
    """Any text, and well-formed YAML of any shape: a scenario or a ConfigError."""
    with contextlib.suppress(ConfigError):
        assert isinstance(parse_scenario(content), Scenario)


# Rules


def test_the_first_matching_rule_answers_until_it_is_used_up() -> None:
    """Order decides; `times` ends a rule; the call number is the model's own."""
    one = director(
        "rules: [{times: 2, reply: {text: a}}, {match: {nth: 4}, reply: {text: b}}, {reply: {text: c}}]"
    )
    assert texts(one, *[question()] * 5) == ["a", "a", "c", "b", "c"]
    assert texts(one, question(model="other")) == ["c"]


MATCHES = [
    ("{model: 'gem*'}", question(model="gemini-2.5-pro"), question(model="claude")),
    ("{provider: openai-compatible}", question(), Ask("groq", "m", "", "", "")),
    ("{contains: 'CAPITAL of'}", question("The capital of France"), question("The capital city")),
    ("{regex: '^\\d+$'}", question("42"), question("42a")),
    ("{prompt: plan}", question(system="[tta:plan/1]\nPlan."), question(system="Plan.")),
    ("{prompt: verdict}", question("[tta:verdict/2]\nGrade."), question("see [tta:verdict/2]")),
    ("{prompt: verdict}", question(schema_name="tta_verdict"), question(tool="tta_plan")),
    ("{prompt: solve}", question(), question(system="[tta:plan/1]")),
]


@pytest.mark.parametrize(("match", "meant", "other"), MATCHES)
def test_each_matcher_means_what_it_says(match: str, meant: Ask, other: Ask) -> None:
    """A matcher holds for what it names and for nothing else."""
    one = director(f"rules: [{{match: {match}, reply: {{text: hit}}}}]")
    assert (texts(one, meant) == ["hit"], texts(one, other) == ["hit"]) == (True, False)


@given(st.integers(1, 40), st.integers(1, 40), st.integers(1, 40))
def test_call_numbers_are_spans(low: int, high: int, step: int) -> None:
    """`n`, `a-b`, `n+` and `every n` select just the calls they name."""
    first, last = min(low, high), max(low, high)
    for text, chosen in (
        (str(low), [low]),
        (f"{first}-{last}", list(range(first, last + 1))),
        (f"{low}+", list(range(low, 61))),
        (f"every {step}", list(range(step, 61, step))),
    ):
        match = parse_scenario(f"rules: [{{match: {{nth: '{text}'}}}}]").rules[0].match
        assert [n for n in range(1, 61) if match.holds(question(), n)] == chosen


def test_a_share_of_the_calls_is_the_same_in_each_run() -> None:
    """A tenth of the calls fails, always the same ones."""
    runs = [
        texts(director("rules: [{match: {share: 0.1}, reply: {error: timeout}}]"), *[question()] * 500)
        for _ in "ab"
    ]
    assert runs[0] == runs[1]
    assert 25 <= runs[0].count("timeout") <= 75


# Quotas


def test_quotas_turn_calls_away_and_recover_with_the_clock() -> None:
    """A minute's requests slide; a day's do not come back with the minute."""
    now = [0.0]
    one = director("quotas: [{rpm: 2, rpd: 3}]", clock=lambda: now[0])
    assert [one.decide(question(), "k").failure is None for _ in range(3)] == [True, True, False]
    refused = one.decide(question(), "k").failure
    assert refused is not None
    assert (refused.kind, refused.retry_after, refused.facts["metric"]) == ("rate_limit", 60.0, "rpm")
    now[0] = 61.0
    assert one.decide(question(), "k").failure is None
    over = one.decide(question(), "k").failure
    assert over is not None
    assert (over.kind, over.retry_after) == ("daily_limit", 86_339.0)


@pytest.mark.parametrize(
    ("provider", "reset", "midnight"),
    [
        ("groq", "utc-day", "2026-03-08T00:00:00+00:00"),
        ("google-ai-studio", None, "2026-03-07T08:00:00+00:00"),
        ("openrouter", "pacific-day", "2026-03-07T08:00:00+00:00"),
    ],
)
def test_a_day_s_quota_comes_back_at_its_midnight(provider: str, reset: str | None, midnight: str) -> None:
    """`reset` names the zone; Gemini's day is Pacific without saying; nothing comes back a second before."""
    now = [datetime.fromisoformat("2026-03-07T02:00:00+00:00").timestamp()]
    back = datetime.fromisoformat(midnight).timestamp()
    one = director(f"quotas: [{{rpd: 2, reset: {reset or 'null'}}}]", clock=lambda: now[0])
    call = replace(question(), provider=provider)
    assert [one.decide(call, "k").failure is None for _ in range(3)] == [True, True, False]
    now[0] = back - 1
    refused = one.decide(call, "k").failure
    assert refused is not None
    assert (refused.kind, refused.retry_after) == ("daily_limit", 1.0)
    now[0] = back
    assert [one.decide(call, "k").failure is None for _ in range(3)] == [True, True, False]


def test_a_pacific_day_is_an_hour_shorter_when_summer_time_begins() -> None:
    """The wait is counted in hours that pass, not in hours of the day."""
    now = datetime.fromisoformat("2026-03-08T08:00:00+00:00").timestamp()
    one = director("quotas: [{provider: google-ai-studio, rpd: 0}]", clock=lambda: now)
    refused = one.decide(replace(question(), provider="google-ai-studio"), "k").failure
    assert refused is not None
    assert refused.retry_after == 23 * 3600


def test_quotas_hold_for_each_key_and_model() -> None:
    """Each key and model has its own count."""
    one = director("quotas: [{rpm: 1}]")
    assert [one.decide(question(model=m), k).failure is None for m, k in ("ak", "bk", "al", "ak")] == [
        True
    ] * 3 + [False]


def test_groq_counts_the_tokens_that_are_asked_for() -> None:
    """`max_tokens` counts before the call runs; a request that alone is too large is not told to wait."""
    one = director("quotas: [{tpm: 1000}]")
    small = Ask("groq", "m", "", "hi", "hi", max_tokens=600)
    assert [one.decide(small, "k").failure for _ in range(1)] == [None]
    later = one.decide(small, "k").failure
    assert later is not None
    assert (later.kind, later.used, later.requested) == ("token_limit", 609, 609)
    huge = one.decide(Ask("groq", "m", "", "hi", "hi", max_tokens=5000), "k").failure
    assert huge is not None
    assert (huge.kind, huge.retry_after) == ("request_over_limit", None)


# Usage and the bill


def test_scripted_usage_is_reported_and_billed(sandbox: Sandbox) -> None:
    """Counts of a rule go out and onto the bill, also beyond `max_tokens`; a lie goes out only."""
    sandbox.use(parse_scenario(
        "rules: [{times: 1, reply: {usage: {input: 1000, output: 2000, thinking: 500}}},"
        " {reply: {usage: {raw: {output_tokens: -7}}}}]"
    ))  # fmt: skip
    told = ask(sandbox, "anthropic", max_tokens=10).json()["usage"]
    lied = ask(sandbox, "anthropic").json()["usage"]
    assert (told["input_tokens"], told["output_tokens"], lied["output_tokens"]) == (1000, 2000, -7)
    assert sandbox.calls[1].usage.output_tokens > 0
    price = Price(Decimal(3), Decimal(15))
    honest = sandbox.calls[1].usage
    second = (honest.input_tokens * Decimal(3) + honest.output_tokens * Decimal(15)) / 1_000_000
    assert [call.cost(lambda *_: price) for call in sandbox.calls] == [Decimal("0.033"), second]
    assert sandbox.billed("groq") == 0


def test_an_unknown_price_is_an_error_not_zero(sandbox: Sandbox) -> None:
    """The provider's bill is never short because a price is missing."""
    ask(sandbox, "openai-compatible")
    with pytest.raises(LookupError, match="No price for sandbox-model"):
        sandbox.billed()


def test_openrouter_tells_what_it_charges(sandbox: Sandbox) -> None:
    """Free variants cost nothing, a paid model its list price, a rule's own cost goes before both."""
    sandbox.use(
        parse_scenario("rules: [{match: {nth: 2}, reply: {usage: {input: 1, output: 1, cost: '0.125'}}}]")
    )
    free = ask(sandbox, "openrouter").json()["usage"]
    paid = [ask(sandbox, "openrouter", model="deepseek/deepseek-r1-0528").json()["usage"] for _ in range(2)]
    assert free["cost"] == 0
    assert paid[1]["cost"] == 0.125
    assert paid[0]["cost"] > 0
    assert sandbox.billed() == Decimal(str(paid[0]["cost"])) + Decimal("0.125")


@pytest.mark.parametrize("provider", PROVIDERS)
def test_usage_can_be_missing_or_nonsense(sandbox: Sandbox, provider: str) -> None:
    """The reply keeps its text; the sandbox still knows what it would bill."""
    sandbox.use(parse_scenario("rules: [{times: 1, reply: {usage: missing}}, {reply: {usage: invalid}}]"))
    missing, invalid = ask(sandbox, provider).json(), ask(sandbox, provider).json()
    assert not {"usage", "usageMetadata"} & set(missing)
    assert -1 in (invalid.get("usage") or invalid["usageMetadata"]).values()
    assert sandbox.calls[-1].usage.output_tokens > 0


# Default answers

PLAN = {
    "type": "object",
    "properties": {
        "use_case": {"type": "string", "enum": ["simple", "expert"]},
        "steps": {"type": "array", "items": {"$ref": "#/$defs/step"}},
        "note": {"anyOf": [{"type": "string"}, {"type": "null"}]},
    },
    "required": ["use_case", "steps", "note"],
    "additionalProperties": False,
    "$defs": {"step": {"type": "object", "properties": {"id": {"type": "integer"}}, "required": ["id"]}},
}
VERDICT = {
    "type": "object",
    "properties": {"score": {"type": "number"}, "ok": {"type": "boolean"}, "reason": {"type": "string"},
                   "verdict": {"enum": ["reject", "accept"]}, "has_problem": {"type": "boolean"}},
    "required": ["score", "ok", "reason", "verdict", "has_problem"],
    "additionalProperties": False,
}  # fmt: skip


@pytest.mark.parametrize("provider", ["google-ai-studio", "openrouter", "openai-compatible"])
def test_structured_requests_get_json_that_fits_the_schema(sandbox: Sandbox, provider: str) -> None:
    """No rule, but a schema: the smallest value that satisfies it."""
    more: dict[str, Any] = {
        "response_format": {"type": "json_schema", "json_schema": {"name": "p", "schema": PLAN}}
    }
    if provider == "google-ai-studio":
        more = {"generationConfig": {"responseMimeType": "application/json", "responseJsonSchema": PLAN}}
    value = json.loads(text_of(provider, ask(sandbox, provider, **more).json()))
    jsonschema.validate(value, PLAN)


@pytest.mark.parametrize(
    ("scenario", "score", "word"), [("", 0.98, "accept"), ("defaults: {verdict: reject}", 0.05, "reject")]
)
def test_verdicts_say_what_the_scenario_says(scenario: str, score: float, word: str) -> None:
    """Judging fields of whatever schema all point the same way."""
    one = director(scenario)
    value = json.loads(texts(one, question(schema=VERDICT, schema_name="tta_verdict"))[0])
    good = word == "accept"
    assert value == {"score": score, "ok": good, "reason": "ok", "verdict": word, "has_problem": not good}


def test_a_schema_written_into_the_prompt_is_obeyed() -> None:
    """Models without a schema mode are told it in words; the sandbox reads them."""
    told = question(
        system=f"[tta:verdict/1]\nGrade. It must satisfy this JSON Schema:\n{json.dumps(VERDICT)}"
    )
    assert json.loads(answer_for(told, verdict="reject").text)["ok"] is False


SIMPLE = st.fixed_dictionaries(
    {"type": st.just("string")}, optional={"minLength": st.integers(0, 9)}
) | st.fixed_dictionaries(
    {"type": st.sampled_from(["integer", "number"])}, optional={"minimum": st.integers(-9, 9)}
) | st.fixed_dictionaries({"type": st.sampled_from(["boolean", "null"])}) | st.fixed_dictionaries(
    {"enum": st.lists(st.integers() | st.text(max_size=4), min_size=1, max_size=3)}
)  # fmt: skip


def _nested(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    """Arrays, objects and alternatives of what there is."""
    arrays = st.fixed_dictionaries(
        {"type": st.just("array"), "items": inner}, optional={"minItems": st.integers(0, 3)}
    )
    objects = st.dictionaries(st.sampled_from("abcd"), inner, max_size=3).map(
        lambda p: {"type": "object", "properties": p, "required": sorted(p), "additionalProperties": False}
    )
    return arrays | objects | st.lists(inner, min_size=1, max_size=2).map(lambda parts: {"anyOf": parts})


SCHEMAS = st.recursive(SIMPLE, _nested, max_leaves=8)


@given(SCHEMAS, st.sampled_from([None, "accept", "reject"]))
@settings(max_examples=200, deadline=None)
def test_samples_satisfy_their_schemas(schema: dict[str, Any], verdict: Any) -> None:
    """Whatever is asked for in the common subset of JSON Schema is what comes."""
    jsonschema.validate(sample(schema, answer="42", verdict=verdict), schema)


@pytest.mark.parametrize(
    ("task", "answer"),
    [
        ("What is 17 * 23?", "391"),
        ("Compute 7 / 2.", "3.5"),
        ("What is 10 minus 12?", "-2"),
        ("What is 0.1 + 0.2?", "0.3"),
        ("What is the capital of France?", None),
        ("What is 5 / 0?", None),
        ("Write a poem about 3 + 4 = 7 and 1 + 1.", None),
        ("Tell me a story.", None),
    ],
)
def test_short_closed_tasks_are_answered_rightly(task: str, answer: str | None) -> None:
    """One sum or comparison is worked out; nothing else is guessed."""
    assert solve(task) == answer


def test_the_json_of_a_recorded_kind_of_prompt_is_answered_in_json(sandbox: Sandbox) -> None:
    """A prompt that shows a JSON format gets that form, with the answer in its field."""
    prompt = 'What is 2 + 3? Answer in the following json format: {"reasoning": "_", "answer": "_"}'
    assert json.loads(text_of("groq", ask(sandbox, "groq", prompt).json()))["answer"] == "5"
    assert MODELS["groq"]
