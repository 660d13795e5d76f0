"""Attacks on the risk ledger, each with the bound that it must keep. Small ones here; `make proofs` runs them large."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import replace

import pytest
from support.risk_world import Task, World

from tta_dev_primitives.flows.validation.risk_state import RiskPolicy

SMALL, LARGE = 1, 20
LONG = 10
"""Runs at most of a scenario of 1,000 tasks or more, or with many strata."""


@pytest.fixture(params=[SMALL, pytest.param(LARGE, marks=pytest.mark.proof)])
def runs(request: pytest.FixtureRequest) -> int:
    """How many runs of a scenario."""
    found: int = request.param
    return found


def over(worlds: list[World], eps: float) -> int:
    """Runs whose share of wrong deliveries is above the budget at their end."""
    return sum(world.share() > eps for world in worlds)


@pytest.mark.parametrize("concurrency", [1, 20, 50, 200])
@pytest.mark.parametrize("eps", [0.15, 0.25])
def test_slow_rejections_cannot_hide(eps: float, concurrency: int, runs: int) -> None:
    """Rejecting checks take 30 times as long, answers fail at 30 %: `strict` is within its budget at every moment."""
    for seed in range(min(runs, LONG)):
        world = World(RiskPolicy(eps, "strict"), seed)
        world.run([Task("u", 0.3)] * 600, concurrency=concurrency, slow_rejections=30)
        assert world.over == 0


@pytest.mark.parametrize("slow", [3, 30])
def test_a_lucky_start_does_not_last_while_checks_are_open(slow: int, runs: int) -> None:
    """Six good answers, then 45 % wrong, rejections late, 50 at once: the share stays below 0.2 (before: 0.41)."""
    worlds = []
    for seed in range(min(runs, LONG)):
        tasks = [Task("u", 0.0)] * 6 + [Task("u", 0.45)] * 1200
        worlds.append(World(RiskPolicy(0.15), seed).run(tasks, concurrency=50, slow_rejections=slow))
    assert max(world.share() for world in worlds) <= 0.2


@pytest.mark.parametrize("concurrency", [1, 50])
def test_strict_still_saves_where_answers_are_good(concurrency: int) -> None:
    """At 3 % failures over four fifths go out without a check, also while checks are open."""
    world = World(RiskPolicy(0.15, "strict"), 9).run([Task("u", 0.03)] * 800, concurrency=concurrency)
    assert world.unchecked > 0.8


@pytest.mark.parametrize("gate", ["strict", "balanced"])
def test_tasks_that_are_never_finished_earn_no_budget(gate: str, runs: int) -> None:
    """400 tasks are cut off while their check is open; then every answer is wrong in 30 %."""
    for seed in range(runs):
        world = World(RiskPolicy(0.15, gate), seed, abandons=1.0)  # type: ignore[arg-type]
        world.run([Task("u", 0.0)] * 400, concurrency=50)
        world.abandons, before = 0.0, len(world.delivered)
        assert world.state.items <= before
        world.run([Task("u", 0.3)] * 400, concurrency=20)
        assert world.share() <= 0.15


def test_killed_and_restarted_tasks_meet_the_same_coins(runs: int) -> None:
    """A third of all tasks is cut off after its ruling, and starts again: no audit is escaped, `strict` holds."""
    for seed in range(runs):
        world = World(RiskPolicy(0.25, "strict"), seed, kills=0.33)
        world.run([Task("u", 0.15)] * 600, concurrency=20)
        assert world.over == 0
        trusted = [r for r in world.rulings if r.action != "escalate"]
        audited = sum(r.action == "audit" for r in trusted)
        assert audited >= 0.05 * len(trusted) - 3 * (0.05 * len(trusted) + 1) ** 0.5


def test_one_task_run_90_times_earns_trust_for_no_other(runs: int) -> None:
    """`strict` and `balanced`: the repeats are one label and one delivery; unseen tasks are checked."""
    for seed in range(runs):
        for policy in (RiskPolicy(0.25, "strict"), RiskPolicy(0.25)):
            world = World(policy, seed).run([Task("u", 0.0, name="again")] * 90)
            assert (world.state.items, next(iter(world.state.strata.values())).n) == (1, 1)
            world.run([Task("u", 1.0)] * 4)
            assert world.missed == 0


def test_repeats_do_not_make_the_certificate_wrong(runs: int) -> None:
    """A tenth of the tasks comes ten times: realised misses stay below the certificate in 95 % of runs."""
    wrong = 0
    for seed in range(runs):
        rng = random.Random(seed)
        tasks = [Task("u", 0.05, name=f"t{rng.randrange(60) if n % 2 else 1000 + n}") for n in range(1200)]
        world = World(RiskPolicy(0.25), seed).run(tasks)
        distinct = {r.task for r in world.rulings if r.action == "deliver"}
        missed = sum(random.Random(f"{seed}|{task}").random() < 0.05 for task in distinct)
        wrong += missed > world.state.audit_bound.missed()
    assert wrong <= max(1, 0.05 * runs)


@pytest.mark.parametrize(("strata", "each", "rate"), [(300, 4, 0.6), (48, 25, 0.3), (24, 50, 0.3)])
def test_many_small_strata_do_not_live_on_their_prior(strata: int, each: int, rate: float, runs: int) -> None:
    """However the tasks are divided, the share of wrong answers stays within a budget of 0.15."""
    worlds = []
    for seed in range(min(runs, LONG)):
        tasks = [Task("u", rate, models=(f"m{n % strata}", "x")) for n in range(strata * each)]
        random.Random(seed).shuffle(tasks)
        worlds.append(World(RiskPolicy(0.15), seed).run(tasks))
    assert over(worlds, 0.15) == 0


def test_a_lucky_split_is_not_believed(runs: int) -> None:
    """Answers on which families split fail in 60 %: they go out without a check in none of 100 runs."""
    lucky = 0
    for seed in range(100 if runs == LARGE else 5):
        tasks = [
            Task("u", 0.6, "split2", strong=False) if n % 4 == 0 else Task("u", 0.03) for n in range(300)
        ]
        world = World(RiskPolicy(0.15), seed).run(tasks)
        lucky += any(r.action == "deliver" and r.evidence.signal == "split2" for r in world.rulings)
    assert lucky == 0


def drifting(kind: str) -> Iterator[Task]:
    """1,500 tasks whose failure rate changes."""
    for n in range(1500):
        rate = {
            "below the alarm": 0.05 if n < 500 else 0.15,
            "slow": 0.05 + 0.25 * n / 1500,
            "bursts": 0.6 if n % 300 < 40 else 0.04,
        }[kind]
        yield Task("u", rate, disagrees=min(0.9, 0.05 + rate))


@pytest.mark.parametrize(("kind", "worst"), [("below the alarm", 0.2), ("slow", 0.3), ("bursts", 0.2)])
def test_drift_is_limited_by_the_window(kind: str, worst: float, runs: int) -> None:
    """Within budget at the end; the worst window of 500 stays below what docs/validation.md says."""
    worlds = [
        World(RiskPolicy(0.15), seed).run(drifting(kind), concurrency=10) for seed in range(min(runs, LONG))
    ]
    assert over(worlds, 0.15) <= 0.1 * len(worlds)
    assert max(world.worst_window() for world in worlds) <= worst


def test_families_that_err_together(runs: int) -> None:
    """What agrees is wrong in 35 % of cases: `balanced` is within 0.15, but for one run in twenty."""
    worlds = [
        World(RiskPolicy(0.15), seed).run([Task("u", 0.35)] * 600, concurrency=5) for seed in range(runs)
    ]
    assert over(worlds, 0.15) <= 0.05 * runs


@pytest.mark.parametrize("signal", ["unjudged-short", "judged"])
@pytest.mark.parametrize("passes", [0.6, 0.9])
def test_a_comparer_that_passes_bad_answers(passes: float, signal: str, runs: int) -> None:
    """A free model passes 60 or 90 % of bad answers: verdicts keep open tasks within the budget.

    Where a free judge has passed them all as well, one run in eight may end beyond it (measured: 2 of 20, at 0.218).
    """
    worlds = []
    for seed in range(runs):
        world = World(RiskPolicy(0.15), seed, comparer=(0.95, passes))
        tasks = [Task("u", 0.35, signal, ("a",), strong=signal == "judged", price_class="v>1")] * 600
        worlds.append(world.run(tasks, concurrency=5))
    fooled = signal == "judged"
    assert over(worlds, 0.15) <= (max(1, 0.125 * runs) if fooled else 0.05 * runs)
    assert max(world.missed / len(world.delivered) for world in worlds) <= (0.25 if fooled else 0.2)


@pytest.mark.parametrize("gate", ["strict", "balanced"])
def test_a_use_case_does_not_pay_for_another(gate: str, runs: int) -> None:
    """After thousands of good tasks, 500 of another use case fail in 78 %: it has a budget of its own."""
    for seed in range(min(runs, 5)):
        world = World(RiskPolicy(0.15, gate), seed).run([Task("good", 0.01)] * 2000)  # type: ignore[arg-type]
        world.run([Task("bad", 0.78)] * 500)
        assert world.share("bad") <= 0.15


@pytest.mark.parametrize(("gate", "worst"), [("strict", 0.15), ("balanced", 0.3)])
def test_good_tasks_of_long_ago_do_not_pay_for_a_bad_window(gate: str, worst: float, runs: int) -> None:
    """In one use case: 3,000 good tasks, then other models that fail in 40 %: the last 500 (before: 0.78)."""
    for seed in range(min(runs, 5)):
        world = World(RiskPolicy(0.15, gate), seed).run([Task("u", 0.01)] * 3000)  # type: ignore[arg-type]
        world.run([Task("u", 0.4, models=("a", "c"))] * 500)
        assert world.share(last=500) <= worst


def test_tasks_whose_check_is_not_affordable_are_not_trusted(runs: int) -> None:
    """Near the end of the budget long tasks cannot be checked, and fail in half: none goes out as accepted."""
    for seed in range(runs):
        world = World(RiskPolicy(0.25), seed).run([Task("u", 0.02, price_class="v<.3")] * 300)
        before = len(world.delivered)
        world.run([Task("u", 0.5, price_class="v>1", auditable=False)] * 200)
        assert len(world.delivered) == before


def test_an_adversary_without_the_secret_cannot_choose_the_coins(runs: int) -> None:
    """One who tries each bad task 20 times, until it would go out without a check, is audited as often as any other."""
    audited = trusted = 0
    for seed in range(runs):
        world = World(RiskPolicy(0.25), seed).run([Task("u", 0.0)] * 200)
        for n in range(100):
            world.run([Task("u", 0.0, name=f"bad{n}")] * 20)
        kept = {r.task: r.action for r in world.rulings if r.task.startswith("bad")}
        assert all(len({r.action for r in world.rulings if r.task == task}) == 1 for task in list(kept)[:10])
        audited += sum(action == "audit" for action in kept.values())
        trusted += sum(action != "escalate" for action in kept.values())
    assert audited >= 0.05 * trusted - 3 * (0.05 * trusted) ** 0.5


@pytest.mark.parametrize("concurrency", [1, 10, 50, 200])
@pytest.mark.parametrize("families", [2, 3])
def test_stationary_tasks_raise_hardly_any_alarm(families: int, concurrency: int, runs: int) -> None:
    """One in 2,000 tasks at most; disagreeing tasks wait for a third answer, so that they come to the ledger late."""
    alarms = tasks = 0
    for seed in range(min(runs, LONG)):
        rng = random.Random(seed)
        stream = []
        for _ in range(1000):
            split = rng.random() < 0.06
            signal = ("agree2of3" if families == 3 else "split2") if split else "agree2of2"
            stream.append(
                Task(
                    "u",
                    0.3 if split else 0.03,
                    signal,
                    strong=families == 3 or not split,
                    disagrees=float(split),
                )
            )
        world = World(RiskPolicy(0.15), seed).run(
            stream, concurrency=concurrency, slow_rejections=5, in_order=concurrency == 1
        )
        alarms, tasks = alarms + len(world.alarms), tasks + len(stream)
    assert alarms <= max(1, tasks / 2000)


@pytest.mark.parametrize("concurrency", [1, 10, 50])
def test_a_real_drop_is_noticed_within_25_tasks(concurrency: int, runs: int) -> None:
    """From task 300 on the first two answers disagree in 35 instead of 5 %: the median delay, of tasks that began."""
    delays = []
    for seed in range(max(runs, 5)):
        stream = [Task("u", 0.03, disagrees=0.05)] * 300 + [Task("u", 0.3, disagrees=0.35)] * 150
        world = World(RiskPolicy(0.15), seed).run(stream, concurrency=concurrency)
        delays.append(next((n - 300 for n in world.alarms if n > 300), 150))
    assert sorted(delays)[len(delays) // 2] <= 25


def mixed(rng: random.Random, eps: float) -> Iterator[Task]:
    """Use cases, strata, families that err together and a drift, all drawn."""
    kinds = []
    for use_case in ("simple", "moderate", "expert")[: rng.choice([1, 2, 3])]:
        for n in range(rng.choice([1, 2, 4, 12])):
            poor = rng.random() < 0.2
            rate = rng.uniform(0.2, 0.6) if poor else rng.betavariate(1.2, 2.4 / eps)
            kinds.append(Task(use_case, rate, rng.choice(["agree2of2", "agree2of3"]), (f"m{n}", "x")))
    length, drift = rng.choice([300, 600, 1200]), rng.random() < 0.5
    for n in range(length):
        task = rng.choice(kinds)
        risen = (
            min(0.6, task.rate + 0.25) if drift and n > length / 2 and task.models[0] == "m0" else task.rate
        )
        yield replace(task, rate=risen, disagrees=min(0.95, 0.04 + risen))


@pytest.mark.parametrize("eps", [0.05, 0.1, 0.15, 0.25])
@pytest.mark.parametrize("gate", ["balanced", "strict"])
def test_mixed_runs_end_within_their_budget(gate: str, eps: float, runs: int) -> None:
    """Lengths, strata, drift and concurrency are drawn: `balanced` in 96 of 100 runs, `strict` in all."""
    worlds = []
    for seed in range(75 if runs == LARGE and gate == "balanced" else min(runs, LONG)):
        rng = random.Random(seed)
        world = World(RiskPolicy(eps, gate), seed)  # type: ignore[arg-type]
        worlds.append(world.run(mixed(rng, eps), concurrency=rng.choice([1, 10, 50]), slow_rejections=3))
    assert over(worlds, eps) <= (0 if gate == "strict" else (1 if runs == SMALL else 3))
