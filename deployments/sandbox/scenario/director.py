"""Decides what each call gets: quota, scenario rules, a replay, or the default answer."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace

from tta_dev_primitives.config.models.targets import Usage
from tta_dev_primitives.deployments.sandbox.chat import Answer, Ask, Failure, Refusal
from tta_dev_primitives.deployments.sandbox.http_reply import RateLimit
from tta_dev_primitives.deployments.sandbox.scenario.answers import answer_for, scripted_answer
from tta_dev_primitives.deployments.sandbox.scenario.prompt_cache import PromptCache
from tta_dev_primitives.deployments.sandbox.scenario.quota import Quotas
from tta_dev_primitives.deployments.sandbox.scenario.scenario import (
    Reply,
    Rule,
    Scenario,
    UsageScript,
    latency_of,
)

Answers = Callable[[Ask], Answer | None]
"""Another source of answers, such as a replay: None leaves the call to the default answer."""


@dataclass(frozen=True, slots=True)
class Decision:
    """What one call gets."""

    nth: int
    rule: str | None
    answer: Answer | None
    failure: Failure | None
    script: Reply
    latency: float
    billed: bool
    limits: tuple[RateLimit, ...] = ()


class Director:
    """Applies one scenario. Not thread-safe: it belongs to the server's event loop."""

    def __init__(
        self, scenario: Scenario, *, clock: Callable[[], float], answers: Answers | None = None
    ) -> None:
        self.scenario = scenario
        self._answers = answers
        self._clock = clock
        self._nth: Counter[tuple[str, str]] = Counter()
        self._used: Counter[int] = Counter()
        self._cache = PromptCache()
        self._quotas = Quotas(scenario.quotas, clock=clock)

    def decide(self, ask: Ask, key: str, *, batched: bool = False) -> Decision:
        """The reply to `ask`.

        Args:
            key: An opaque name of the caller's API key, for quotas.
            batched: It came in a batch, which the quotas of single calls do not count.
        """
        if self.scenario.state(ask.model).gone:
            return self._failed(Failure("model_gone", facts={"model": ask.model}), 0, None, ask)
        over = None if batched else self._quotas.admit(key, ask)
        limits = tuple(self._quotas.limits(key, ask))
        if over is not None:
            return replace(self._failed(over, 0, None, ask), limits=limits)
        self._nth[ask.provider, ask.model] += 1
        nth = self._nth[ask.provider, ask.model]
        rule = self._rule(ask, nth)
        decision = self._apply(rule, ask, nth)
        if batched:
            # One after the other: a request of a batch has no connection that waits.
            decision = replace(decision, latency=0.0)
        return replace(self._with_cache(decision, ask, key), limits=limits)

    def _with_cache(self, decision: Decision, ask: Ask, key: str) -> Decision:
        """The decision with what the prompt cache does to its usage; a scripted usage stays."""
        if not ask.marked or decision.answer is None or decision.script.usage is not None:
            return decision
        usage = self._cache.usage(
            ask, key, decision.answer.usage, now=self._clock(), latency=decision.latency
        )
        return replace(decision, answer=replace(decision.answer, usage=usage))

    def _rule(self, ask: Ask, nth: int) -> Rule | None:
        for index, rule in enumerate(self.scenario.rules):
            used_up = rule.times is not None and self._used[index] >= rule.times
            if not used_up and rule.match.holds(ask, nth):
                self._used[index] += 1
                return rule
        return None

    def _apply(self, rule: Rule | None, ask: Ask, nth: int) -> Decision:
        script, name = (rule.reply, rule.name) if rule else (Reply(), None)
        if script.error is not None:
            return self._failed(_failure(script, ask), nth, name, ask, script)
        if script.status is not None:
            return Decision(nth, name, None, None, script, self._latency(script, ask, nth), billed=False)
        try:
            answer = self._answer(script, ask)
        except Refusal as refusal:
            return self._failed(refusal.failure, nth, name, ask, script)
        return Decision(nth, name, answer, None, script, self._latency(script, ask, nth), billed=True)

    def _failed(
        self, failure: Failure, nth: int, rule: str | None, ask: Ask, script: Reply | None = None
    ) -> Decision:
        script = script or Reply()
        latency = self._latency(script, ask, nth)
        return Decision(nth, rule, None, failure, script, latency, billed=False)

    def _latency(self, script: Reply, ask: Ask, nth: int) -> float:
        wanted = self.scenario.defaults.latency if script.latency is None else script.latency
        return latency_of(wanted, ask.provider, ask.model, nth)

    def _answer(self, script: Reply, ask: Ask) -> Answer:
        answer = self._text_answer(script, ask)
        if script.thinking:
            extra = (len(script.thinking) + 3) // 4
            output, thinking = answer.usage.output_tokens + extra, answer.usage.thinking_tokens + extra
            usage = replace(answer.usage, output_tokens=output, thinking_tokens=thinking)
            answer = replace(answer, thinking=script.thinking, usage=usage)
        answer = answer.within(ask)  # before a scripted usage, which may claim anything
        if script.finish is not None:
            answer = replace(answer, finish=script.finish)
        if isinstance(script.usage, str):
            return replace(answer, usage_override=script.usage)
        return answer if script.usage is None else _with_usage(answer, script.usage)

    def _text_answer(self, script: Reply, ask: Ask) -> Answer:
        if script.text is not None:
            answer = scripted_answer(ask, script.text)
            return answer if _is_json_object(script.text) else replace(answer, finish="stop")
        if script.json_ is not None:
            return scripted_answer(ask, json.dumps(script.json_, ensure_ascii=False))
        if script.verdict is None and self._answers is not None:
            other = self._answers(ask)
            if other is not None:
                return other
        return answer_for(ask, verdict=script.verdict or self.scenario.defaults.verdict)


def _is_json_object(text: str) -> bool:
    try:
        return isinstance(json.loads(text), dict)
    except ValueError:
        return False


def _failure(script: Reply, ask: Ask) -> Failure:
    kind = script.error or "server_error"
    return Failure(kind, script.message, retry_after=script.retry_after, facts={"model": ask.model})


def _with_usage(answer: Answer, script: UsageScript) -> Answer:
    usage = answer.usage
    if script.raw is None or script.model_fields_set - {"raw"}:
        usage = Usage(
            input_tokens=script.input, cache_read_tokens=script.cache_read, cache_write_tokens=script.cache_write,
            output_tokens=script.output, thinking_tokens=script.thinking, reported_cost_usd=script.cost,
        )  # fmt: skip
    return replace(answer, usage=usage, usage_override=script.raw)
