"""Generated tests run in the project's interpreter, in either style, and each must use the module."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import pytest

from tta_dev_primitives.config.errors import ConfigError
from tta_dev_primitives.flows.jobs.fence import Fence, find_fence, find_python
from tta_dev_primitives.flows.jobs.modules import Module, read_module
from tta_dev_primitives.flows.jobs.trial import import_fault, trial

SHOP = """
LIMIT = 3

class Money:
    def __init__(self, cents):
        self.cents = cents
    @property
    def euros(self):
        return self.cents / 100
    def __eq__(self, other):
        return self.cents == other.cents
    def __add__(self, other):
        return Money(self.cents + other.cents)

class TooMuch(ValueError):
    pass

def total(values):
    if len(values) > LIMIT:
        raise TooMuch("too much")
    return sum(values)
"""
GOOD = """
import pytest
from shop import LIMIT, Money, TooMuch, total

@pytest.mark.parametrize("values", [[1, 2], [3]])
def test_total(values):
    assert total(values) == 3

def test_limit(tmp_path):
    assert LIMIT == 3
    with pytest.raises(TooMuch, match="much"):
        total([1] * 4)

def test_error_is_a_value_error():
    assert issubclass(TooMuch, ValueError)

class TestMoney:
    def test_euros(self):
        assert Money(150).euros == 1.5
    def test_sum(self):
        assert Money(1) + Money(2) == Money(3)
"""
UNITTEST = """
import unittest
from shop import Money
class T(unittest.TestCase):
    def test_euros(self):
        self.assertEqual(Money(150).euros, 1.5)
"""


@pytest.fixture
def shop(tmp_path: Path) -> Module:
    (tmp_path / "shop.py").write_text(SHOP)
    return read_module(tmp_path / "shop.py")


@pytest.fixture
async def fence(shop: Module) -> Fence:
    found = await find_fence(shop)
    if found is None:
        pytest.skip("this machine offers no fence")
    return found


async def test_pytest_style_runs_where_the_interpreter_has_it(shop: Module, fence: Fence) -> None:
    assert fence.pytest
    outcome = await trial(shop, GOOD, fence=fence)
    assert (outcome.run, outcome.failures) == (6, ())
    # Without pytest: unittest alone.
    bare = replace(fence, pytest=False)
    assert (await trial(shop, UNITTEST, fence=bare)).failures == ()
    assert (await trial(shop, UNITTEST, fence=fence)).failures == ()


@pytest.mark.parametrize("with_pytest", [True, False])
async def test_a_test_that_uses_nothing_is_refused_by_name(
    shop: Module, fence: Fence, with_pytest: bool
) -> None:
    idle = "    def test_nothing(self):\n        import shop\n        self.assertTrue(1 + 1 == 2)\n"
    outcome = await trial(shop, UNITTEST + idle, fence=replace(fence, pytest=with_pytest))
    assert outcome.failures == (
        "these tests pass without using the module, so they check nothing: test_nothing",
    )


async def test_properties_and_operators_are_emptied_too(shop: Module, fence: Fence) -> None:
    """A test that looks at nothing of the value passes on an emptied class: it is refused."""
    code = "from shop import Money\ndef test_it():\n    Money(150).euros\n    Money(1) + Money(2)\n"
    (fault,) = (await trial(shop, code, fence=fence)).failures
    assert "also pass when every function of the module does nothing" in fault


@pytest.mark.parametrize("with_pytest", [True, False])
async def test_a_failure_says_what_and_where(shop: Module, fence: Fence, with_pytest: bool) -> None:
    code = UNITTEST.replace("1.5", "2.5")
    (fault,) = (await trial(shop, code, fence=replace(fence, pytest=with_pytest))).failures
    assert fault == "failed test_euros: AssertionError: 1.5 != 2.5 (line 6)"


async def test_a_module_that_cannot_be_imported_is_known_before_a_model_is_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A sibling is found; a package of another folder only with PYTHONPATH."""
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    (tmp_path / "a" / "sibling.py").write_text("x = 1\n")
    (tmp_path / "b" / "far_away.py").write_text("y = 2\n")
    (tmp_path / "a" / "one.py").write_text("import sibling, far_away\ndef f(): return far_away.y\n")
    module = read_module(tmp_path / "a" / "one.py")
    fence = await find_fence(module)
    if fence is None:
        pytest.skip("this machine offers no fence")
    fault = await import_fault(module, fence)
    assert fault is not None
    assert "No module named 'far_away'" in fault
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "b"))
    found = await find_fence(module)
    assert found is not None
    assert await import_fault(module, found) is None


def test_which_interpreter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The given one, else that of the active virtual environment, else this one."""
    monkeypatch.delenv("VIRTUAL_ENV", raising=False)
    assert find_python(None) == sys.executable
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "python").symlink_to(sys.executable)
    monkeypatch.setenv("VIRTUAL_ENV", str(tmp_path))
    assert find_python(None) == str(tmp_path / "bin" / "python")
    assert find_python(sys.executable) == sys.executable
    with pytest.raises(ConfigError, match="--python /nowhere: no program there"):
        find_python("/nowhere")
