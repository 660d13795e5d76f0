"""Decides what each call gets: quota, scenario rules, a replay, or the default answer."""

from __future__ import annotations

import contextlib
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


_PLAIN = Reply()


@dataclass(frozen=True, slots=True)
class Decision:
    """What one call gets."""

    rule: str | None = None
    answer: Answer | None = None
    """What is answered and billed; None for an error."""
    failure: Failure | None = None
    script: Reply = _PLAIN
    latency: float = 0.0
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
            gone = Failure("model_gone", facts={"model": ask.model})
            return Decision(failure=gone, latency=self._latency(_PLAIN, ask, 0))
        over = None if batched else self._quotas.admit(key, ask)
        limits = tuple(self._quotas.limits(key, ask))
        if over is not None:
            return Decision(failure=over, latency=self._latency(_PLAIN, ask, 0), limits=limits)
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
        script, name = (rule.reply, rule.name) if rule else (_PLAIN, None)
        answer = failure = None
        if script.error is not None:
            facts = {"model": ask.model}
            failure = Failure(script.error, script.message, retry_after=script.retry_after, facts=facts)
        elif script.status is None:
            try:
                answer = self._answer(script, ask)
            except Refusal as refusal:
                failure = refusal.failure
        return Decision(name, answer, failure, script, self._latency(script, ask, nth))

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
            with contextlib.suppress(ValueError):
                if isinstance(json.loads(script.text), dict):
                    return scripted_answer(ask, script.text)
            return replace(scripted_answer(ask, script.text), finish="stop")
        if script.json_ is not None:
            return scripted_answer(ask, json.dumps(script.json_, ensure_ascii=False))
        if script.verdict is None and self._answers is not None and (other := self._answers(ask)) is not None:
            return other
        return answer_for(ask, verdict=script.verdict or self.scenario.defaults.verdict)


def _with_usage(answer: Answer, script: UsageScript) -> Answer:
    usage = answer.usage
    if script.raw is None or script.model_fields_set - {"raw"}:
        usage = Usage(
            input_tokens=script.input, cache_read_tokens=script.cache_read, cache_write_tokens=script.cache_write,
            output_tokens=script.output, thinking_tokens=script.thinking, reported_cost_usd=script.cost,
        )  # fmt: skip
    return replace(answer, usage=usage, usage_override=script.raw)
