"""Typed tasks with known truth, driven through the product's own state machine and risk ledger, offline.

A seeded generator makes the texts: invoices, addresses, log lines, products. Models are error rates per field. What is
decided is decided by the product's code.
"""

from __future__ import annotations

import json
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from decimal import Decimal
from typing import Any

from tta_dev_primitives.blocks.wire.types import ChatReply
from tta_dev_primitives.config.models.targets import Price, Usage
from tta_dev_primitives.flows.answers.fields import forms_of
from tta_dev_primitives.flows.answers.output_type import OutputType
from tta_dev_primitives.flows.answers.parts import Part
from tta_dev_primitives.flows.planning.plan_model import Plan
from tta_dev_primitives.flows.validation.case import Answer, Candidate, Case, Policy
from tta_dev_primitives.flows.validation.field_votes import status_of
from tta_dev_primitives.flows.validation.labels import label_of
from tta_dev_primitives.flows.validation.local_checks import check_answer
from tta_dev_primitives.flows.validation.next_step import next_step
from tta_dev_primitives.flows.validation.risk_state import Label, RiskPolicy, RiskState
from tta_dev_primitives.flows.validation.rulings import TaskRow, learn_once, rule_once
from tta_dev_primitives.flows.validation.steps import Answers, Consult, Deliver, GiveUp, PaidSolve, Step

__all__ = ["Job", "Models", "TypedTask", "run_job", "tasks_of"]

PRICE = Price(Decimal(3), Decimal(15))
_CITIES = ("Bonn", "Lyon", "Oslo", "Graz", "Turin", "Porto", "Brno", "Gdansk", "Split", "Bath")
_NAMES = ("Ada Ring", "Ben Voss", "Cleo Marsh", "Dan Okoro", "Eve Lind", "Fay Tran", "Gus Holm", "Ida Roth")
_GOODS = ("kettle", "lamp", "desk", "rope", "drill", "tent", "scarf", "clock", "vase", "bench")
_SERVICES = ("billing", "search", "login", "mail", "export", "cache")


@dataclass(frozen=True)
class TypedTask:
    """A text, what it says, and the type that is asked for."""

    text: str
    truth: Mapping[str, Any]
    output: OutputType


def _object(**properties: dict[str, Any]) -> dict[str, Any]:
    return {
        "type": "object", "properties": properties, "required": list(properties), "additionalProperties": False,
    }  # fmt: skip


_TEXT, _DATE, _NUMBER = {"type": "string"}, {"type": "string", "format": "date"}, {"type": "number"}
_SCHEMAS = {
    "invoice": _object(
        number=_TEXT, issued=_DATE, total=_NUMBER, city=_TEXT, due=_DATE,
        currency={"enum": ["EUR", "USD", "GBP", "CHF"]},
    ),
    "address": _object(
        name=_TEXT, street=_TEXT, house={"type": "integer"}, zip=_TEXT, city=_TEXT,
        country={"enum": ["DE", "FR", "NO", "AT", "IT", "PT"]},
    ),
    "log": _object(
        time={"type": "string", "format": "date-time"}, service=_TEXT, status={"type": "integer"}, ip=_TEXT,
        took_ms=_NUMBER, level={"enum": ["DEBUG", "INFO", "WARNING", "ERROR"]},
    ),
    "product": _object(
        sku=_TEXT, name=_TEXT, price=_NUMBER, weight_g={"type": "integer"}, city=_TEXT,
        in_stock={"type": "boolean"},
    ),
}  # fmt: skip


def _date(rng: random.Random) -> str:
    return f"2026-{rng.randint(1, 12):02}-{rng.randint(1, 28):02}"


def _record(kind: str, rng: random.Random) -> tuple[str, dict[str, Any]]:
    match kind:
        case "invoice":
            data: dict[str, Any] = {
                "number": f"R-{rng.randint(1000, 9999)}", "issued": _date(rng),
                "total": rng.randint(100, 99999) / 100, "city": rng.choice(_CITIES), "due": _date(rng),
                "currency": rng.choice(["EUR", "USD", "GBP", "CHF"]),
            }  # fmt: skip
            text = (
                "Invoice {number} of {issued}, payable by {due} at our office in {city}: {total} {currency} "
                "for deliveries as agreed. Please quote the number with your payment. " * 3
            )
        case "address":
            data = {
                "name": rng.choice(_NAMES), "street": f"{rng.choice(_GOODS).title()} Road",
                "house": rng.randint(1, 300), "zip": str(rng.randint(10000, 99999)), "city": rng.choice(_CITIES),
                "country": rng.choice(["DE", "FR", "NO", "AT", "IT", "PT"]),
            }  # fmt: skip
            text = (
                "We moved: write to {name}, {house} {street}, {country}-{zip} {city}, from next month on. "
                * 4
            )
        case "log":
            data = {
                "time": f"{_date(rng)}T{rng.randint(0, 23):02}:{rng.randint(0, 59):02}:00Z",
                "service": rng.choice(_SERVICES), "status": rng.choice([200, 201, 404, 409, 500, 503]),
                "ip": f"10.0.{rng.randint(0, 255)}.{rng.randint(1, 254)}", "took_ms": rng.randint(1, 9000) / 10,
                "level": rng.choice(["DEBUG", "INFO", "WARNING", "ERROR"]),
            }  # fmt: skip
            text = (
                "{time} {level} [{service}] {ip} answered {status} in {took_ms} ms (worker idle, queue 0)\n"
                * 4
            )
        case _:
            data = {
                "sku": f"{rng.choice('ABCDEF')}{rng.randint(100, 999)}", "name": rng.choice(_GOODS),
                "price": rng.randint(100, 50000) / 100, "weight_g": rng.randint(50, 9000),
                "city": rng.choice(_CITIES), "in_stock": rng.random() < 0.5,
            }  # fmt: skip
            text = (
                "The {name} ({sku}) weighs {weight_g} g and costs {price}; ships from {city}; stock: {in_stock}. "
                * 4
            )
    return text.format(**data), data


def tasks_of(count: int, rng: random.Random, *, fields: int = 6) -> list[TypedTask]:
    """So many tasks, a quarter of each kind, in random order; the types have the first so many fields."""
    made = []
    for number in range(count):
        kind = list(_SCHEMAS)[number % len(_SCHEMAS)]
        text, truth = _record(kind, rng)
        names = list(_SCHEMAS[kind]["properties"])[-fields:]
        schema = _object(**{name: _SCHEMAS[kind]["properties"][name] for name in names})
        made.append(TypedTask(text, {name: truth[name] for name in names}, OutputType.of(schema)))
    rng.shuffle(made)
    return made


@dataclass(frozen=True)
class Models:
    """What the models are like."""

    free: int = 3
    """Free families."""
    errors: float = 0.06
    """Fields that a free model gets wrong."""
    shared: float = 0.0
    """Share of these errors that all free models make alike."""
    bad: float = 0.0
    """Further errors in the first field, which all free models make alike."""
    paid_errors: float = 0.005
    policy: Policy = field(default_factory=Policy)


@dataclass
class Job:
    """What came of it."""

    models: Models
    risk: RiskState = field(default_factory=RiskState)
    tasks: int = 0
    cost: Decimal = Decimal(0)
    alone: Decimal = Decimal(0)
    """What the paid model alone would have cost."""
    dearer: int = 0
    """Tasks whose paid calls cost more than the paid model alone."""
    fields: int = 0
    right: int = 0
    paid_right: int = 0
    one_free_right: int = 0
    wrong_agreed: int = 0
    """Delivered tasks with a wrong field that is called agreed."""
    steps: dict[str, int] = field(default_factory=dict)

    @property
    def saving(self) -> float:
        """1 - cost / cost of the paid model alone."""
        return float(1 - self.cost / self.alone)

    @property
    def accuracy(self) -> float:
        """Right fields as a share of the paid model's right fields."""
        return self.right / self.paid_right


def run_job(models: Models, tasks: Sequence[TypedTask], rng: random.Random) -> Job:
    """Run the tasks in order, one risk ledger for all."""
    job, secret = Job(models), str(rng.random())
    for number, task in enumerate(tasks):
        other = tasks[(number + 1 + rng.randrange(len(tasks) - 1)) % len(tasks)]
        while other.output.schema != task.output.schema:
            other = tasks[rng.randrange(len(tasks))]
        _Run(job, task, other.truth, rng, secret).run()
    return job


class _Run:
    def __init__(
        self, job: Job, task: TypedTask, other: Mapping[str, Any], rng: random.Random, secret: str
    ) -> None:
        self.job, self.models, self.rng, self.secret = job, job.models, rng, secret
        self.task, self.plan, self.output = (
            task.text,
            Plan(use_case="simple", answer_format="json"),
            task.output,
        )
        self.truth, self.other = task.truth, other
        shared = self.models.errors * self.models.shared
        self.trap = {name for name in self.truth if rng.random() < shared}
        if self.models.bad and rng.random() < self.models.bad:
            self.trap.add(next(iter(self.truth)))
        self.answers = {f"free{n}": self._free() for n in range(self.models.free)}
        self.answers["claude"] = self._values(self.models.paid_errors)
        paid = Candidate("claude", "claude", "paid", "claude", PRICE)
        free = [Candidate(f"free{n}", f"family{n}", "free", f"free{n}") for n in range(self.models.free)]
        self.by_name = {c.model: c for c in [*free, paid]}
        self.case = Case(
            "json", "simple", (*free, paid), paid, self.models.policy, schema=task.output.short_digest
        )  # fmt: skip
        self.row, self.key, self.cost = TaskRow(), str(job.tasks), Decimal(0)
        self.risk = RiskPolicy(self.models.policy.eps, self.models.policy.gate)

    def _free(self) -> dict[str, Any]:
        rest = self.models.errors * (1 - self.models.shared)
        wrong = {name: self._wrong(name, 0) for name in self.trap}
        return self._values(rest) | wrong

    def _values(self, errors: float) -> dict[str, Any]:
        return {
            name: self._wrong(name, self.rng.randrange(4)) if self.rng.random() < errors else value
            for name, value in self.truth.items()
        }

    def _wrong(self, name: str, way: int) -> Any:
        """A plausible wrong value: that of another text, or a slip; closed sets have few to choose from."""
        value, schema = self.truth[name], self.output.schema["properties"][name]
        if isinstance(value, bool):
            return not value
        if "enum" in schema:
            left = [choice for choice in schema["enum"] if choice != value]
            return left[way % len(left)]
        if "format" in schema:
            day = int(value[8:10]) % 28 + 1
            return f"{value[:8]}{day + way if day + way <= 28 else way + 1:02}{value[10:]}"
        if isinstance(value, (int, float)):
            return value + (1, 10, 100, 7)[way]
        return self.other[name] if way == 0 and self.other[name] != value else f"{value} {'abcd'[way]}"

    def run(self) -> None:
        while not isinstance(step := next_step(self.case), Deliver | GiveUp):
            self._take(step)
        assert isinstance(step, Deliver)
        label = label_of(self.case, step) or Label(self.case.ruling, None, step.accepted)
        label = replace(label, task=self.key, use_case="simple")
        _, self.job.risk, self.row = learn_once(self.job.risk, self.row, label, self.risk)
        self._count(step)

    def _take(self, step: Step) -> None:
        match step:
            case Answers(slots, fields, base):
                for slot in slots:
                    self._answer(slot[0], fields, base)
            case PaidSolve(models, reason, fields, base):
                self.job.steps[reason] = self.job.steps.get(reason, 0) + 1
                self._answer(models[0], fields, base)
            case Consult(evidence):
                ruling, self.job.risk, self.row = rule_once(
                    self.job.risk,
                    self.row,
                    self.key,
                    evidence,
                    self.risk,
                    secret=self.secret,
                    month="2026-11",
                )
                self.case = self.case.with_ruling(ruling)
            case _:
                raise AssertionError(f"no judge is needed for closed fields: {step}")

    def _answer(self, name: str, fields: Sequence[str], base: int) -> None:
        part = Part.of(self.output, fields, self.case.answers[base].text) if fields else None
        values = {key: self.answers[name][key] for key in fields or self.truth}
        text = json.dumps(values)
        found = check_answer(self, ChatReply(text, "stop", Usage()), part)
        assert not found.failures, found
        self.case = self.case.with_answer(
            Answer(self.by_name[name], found.text, (), found.final, fields=found.fields)
        )
        if name == "claude":
            self.cost += self._price(text, self.output if part is None else part.cut)

    def _price(self, text: str, output: OutputType) -> Decimal:
        read = len(self.task) + len(json.dumps(output.request_schema))
        return PRICE.cost(Usage(read // 4, output_tokens=len(text) // 4))

    def _count(self, step: Deliver) -> None:
        job, schema = self.job, self.output.schema
        truth = forms_of(schema, self.truth)
        shown = forms_of(schema, json.loads(self.case.answers[step.index].text))
        status = status_of(self.case)
        wrong = {name for name in truth if shown[name] != truth[name]}
        alone = self._price(json.dumps(self.answers["claude"]), self.output)
        job.tasks += 1
        job.cost += self.cost
        job.alone += alone
        job.dearer += self.cost > alone
        job.fields += len(truth)
        job.right += len(truth) - len(wrong)
        job.paid_right += _matches(schema, truth, self.answers["claude"])
        job.one_free_right += _matches(schema, truth, self.answers["free0"])
        job.wrong_agreed += any(status[name] == "agreed" for name in wrong)


def _matches(schema: Mapping[str, Any], truth: Mapping[str, Any], data: Mapping[str, Any]) -> int:
    forms = forms_of(schema, data)
    return sum(forms[name] == form for name, form in truth.items())
