"""The three jobs: their flows against the sandbox on this repository's own code, and the local checks by themselves."""

from __future__ import annotations

import difflib
import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml
from sandbox_runs import GEMINI, LLAMA, At, SandboxOf

from tta_dev_primitives.commands.job import exit_code
from tta_dev_primitives.config.errors import AllModelsFailedError, ConfigError
from tta_dev_primitives.flows.jobs import document_module, generate_tests, review_diff
from tta_dev_primitives.flows.jobs.diffs import changes_in
from tta_dev_primitives.flows.jobs.modules import (
    code_in,
    invented,
    page_in,
    read_module,
    read_modules,
    undocumented,
)
from tta_dev_primitives.flows.jobs.sources import git_diff
from tta_dev_primitives.flows.jobs.trial import trial

ROOT = Path(__file__).parents[3]
OWN_MODULE = ROOT / "flows" / "jobs" / "diffs.py"
EXAMPLE = ROOT / "flows" / "jobs" / "examples" / "temperature.py"

TESTS_OF_OWN_MODULE = """
import unittest

from flows.jobs.diffs import changes_in, chosen

DIFF = "--- a/x.py\\n+++ b/x.py\\n@@ -1 +1,2 @@\\n kept\\n+new\\n"


class DiffsTest(unittest.TestCase):
    def test_the_lines_that_a_diff_shows(self):
        (change,) = changes_in(DIFF)
        self.assertEqual((change.path, change.lines), ("x.py", frozenset({1, 2})))

    def test_what_is_left_out(self):
        changes = changes_in(DIFF)
        self.assertEqual(chosen(changes), (changes, []))
        self.assertEqual(chosen(changes, exclude=["*.py"]), ([], ["x.py"]))
"""


def scripted(*replies: tuple[str, str]) -> str:
    """A scenario in which each model gives its own answer; free judges accept."""
    rules = [
        {"match": {"model": model, "prompt": "solve"}, "reply": {"text": text}} for model, text in replies
    ]
    return yaml.safe_dump({"rules": rules})


async def run(workflow: Any, job: Callable[..., Any], **parameters: Any) -> Any:
    """One flow run of a job with the workflow's configuration file."""
    return await job(**parameters, config_path=str(workflow.config.source))


async def test_the_review_of_an_own_change_cites_only_what_the_diff_shows(at: At, tmp_path: Path) -> None:
    """A finding at a line that the diff does not show is refused on this machine; the next model is asked."""
    before = OWN_MODULE.read_text().splitlines(keepends=True)
    after = [line.replace("left - 1", "left - 2") for line in before]
    (tmp_path / "p.diff").write_text(
        "".join(difflib.unified_diff(before, after, "a/flows/jobs/diffs.py", "b/flows/jobs/diffs.py"))
    )
    (line,) = (n for n, text in enumerate(after, start=1) if "left - 2" in text)
    good = f"- flows/jobs/diffs.py:{line}: high: the hunk ends too early; take 1 away"
    unjudged = at(
        scripted((GEMINI, "- flows/jobs/diffs.py:1: high: no"), (LLAMA, good)), validation={"mode": "never"}
    )
    job = await run(unjudged, review_diff, diff_path=str(tmp_path / "p.diff"))
    assert job.accepted
    assert good in job.content
    assert job.parts[0].result.model == LLAMA
    held = unjudged.sandbox.calls[0].body["generationConfig"]
    assert '"findings"' in json.dumps(held), "models with structured output are held to the form of findings"
    assert job.cost_usd == job.parts[0].result.cost_usd


async def test_the_page_of_an_own_module_names_all_of_it(at: At) -> None:
    """A page that leaves out a public function is refused; the next model's page is delivered."""
    page = "# diffs\n\n`FileChange`, `changes_in(diff)`, `to_review(changes)` and `chosen(changes)`."
    unjudged = at(
        scripted((GEMINI, "# diffs\n\n`changes_in` only."), (LLAMA, page)), validation={"mode": "never"}
    )
    job = await run(unjudged, document_module, module_path=str(OWN_MODULE))
    assert (job.content, job.parts[0].result.model, job.accepted) == (page, LLAMA, True)


async def test_tests_for_an_own_module_are_handed_out_only_when_they_held(at: At) -> None:
    """Tests that fail here go back to their model once, then to the next one; what is delivered has run."""
    wrong = "```python\n" + TESTS_OF_OWN_MODULE.replace("{1, 2}", "{7}") + "```"
    right = f"Here they are:\n\n```python\n{TESTS_OF_OWN_MODULE}```"
    workflow = at(scripted((GEMINI, wrong), (LLAMA, right)))
    job = await run(workflow, generate_tests, module_path=str(OWN_MODULE))
    assert job.content.strip() == TESTS_OF_OWN_MODULE.strip()
    assert job.parts[0].result.model == LLAMA
    asked = [attempt.model for attempt in job.parts[0].result.attempts if attempt.role == "execute"]
    assert asked[:3] == [GEMINI, GEMINI, LLAMA]
    assert job.notes[0].startswith("2 tests ran and passed on flows.jobs.diffs")


async def test_without_a_fence_tests_are_written_and_not_run(
    sandbox_of: SandboxOf, at: At, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The result says so; what a deployment may not ask for is refused before any call."""

    async def none(*_: Any) -> None:
        return None

    monkeypatch.setattr("tta_dev_primitives.flows.jobs.unit_tests.find_fence", none)
    code = f"open({str(tmp_path / 'ran')!r}, 'w')\n"
    sandbox = sandbox_of(scripted((GEMINI, f"```python\n{code}```"), (LLAMA, f"```python\n{code}```")))
    job = await run(at(sandbox), generate_tests, module_path=str(EXAMPLE))
    assert job.content == code
    assert job.notes[0].startswith("the tests were NOT run")
    assert not (tmp_path / "ran").exists()
    monkeypatch.setattr(
        "tta_dev_primitives.flows.jobs.unit_tests.deployment", SimpleNamespace(id="a-deployment")
    )
    with pytest.raises(ConfigError, match="run_unfenced: refused in a deployment"):
        await run(at(sandbox), generate_tests, module_path=str(EXAMPLE), run_unfenced=True)


async def test_when_ignores_tests_hold_the_run_fails_and_says_why(at: At) -> None:
    """No model's tests pass: no result, and each model's failure is in the error."""
    code = "import unittest\nclass T(unittest.TestCase):\n    def test_it(self):\n        self.fail('no')\n"
    nonsense = f"```python\n{code}```"
    workflow = at(yaml.safe_dump({"rules": [{"match": {"prompt": "solve"}, "reply": {"text": nonsense}}]}))
    with pytest.raises(AllModelsFailedError, match="failed test_it: AssertionError: no"):
        await run(workflow, generate_tests, module_path=str(EXAMPLE))


async def test_one_unanswered_file_does_not_lose_the_others(at: At, tmp_path: Path) -> None:
    """A review of two files of which one cannot be answered delivers the other and is not accepted."""
    change = "--- a/{0}.py\n+++ b/{0}.py\n@@ -1 +1 @@\n-a\n+b\n"
    (tmp_path / "p.diff").write_text(change.format("one") + change.format("two"))
    rules = [
        {"match": {"prompt": "solve", "contains": "change of one.py"}, "reply": {"text": "No findings."}},
        {"match": {"prompt": "solve"}, "reply": {"text": "- one.py:9: low: elsewhere"}},
    ]
    workflow = at(yaml.safe_dump({"rules": rules}))
    job = await run(workflow, review_diff, diff_path=str(tmp_path / "p.diff"))
    assert not job.accepted
    assert [part.result is not None for part in job.parts] == [True, False]
    assert exit_code(job) == 1
    assert "Not reviewed: All models failed" in job.content
    assert job.cost_usd > job.parts[0].result.cost_usd


@pytest.mark.parametrize(
    ("code", "failure"),
    [
        ("def broken(:", "tests are not Python"),
        ("x = 1\n", "no test ran"),
        ("import nowhere_to_be_found\n", "failed import: ModuleNotFoundError"),
        (
            "def test_it(self):\n        assert 1 + 1 == 2",
            "also pass when every function of the module does nothing",
        ),
        ("def test_it(self):\n        while True: pass", "did not end within 2 s"),
        (
            "def test_it(self):\n        import socket; socket.create_connection(('127.0.0.1', 9))",
            "PermissionError: [Errno 1] Operation not permitted",
        ),
        (
            "def test_it(self):\n        import subprocess; subprocess.run(['true'])",
            "PermissionError: [Errno 1] Operation not permitted",
        ),
        ("def test_it(self):\n        open('/var/tmp/tta-escape', 'w')", "failed test_it: "),
        ("def test_it(self):\n        import os; os._exit(0)", "without a valid report (exit code 0)"),
        (
            "def test_it(self):\n        import os; assert os.environ.get('TTA_TEST_SECRET') == 'sk-1'",
            "failed test_it: AssertionError",
        ),
    ],
)
async def test_tests_that_do_not_hold_are_refused(
    code: str, failure: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Wrong, empty, endless, escaping or meaningless tests: each is refused with its reason, and sees no key."""
    monkeypatch.setenv("TTA_TEST_SECRET", "sk-1")
    if code.startswith("def test_it"):
        code = f"import unittest\nclass T(unittest.TestCase):\n    {code}\n"
    outcome = await trial(read_module(EXAMPLE), code, seconds=2 if "while" in code else 30)
    assert failure in "; ".join(outcome.failures)


async def test_tests_may_use_their_temporary_folder() -> None:
    """What honest tests need is there: a temporary folder to write to, and the module by its name."""
    code = (
        "import pathlib, tempfile, unittest\nfrom temperature import warmest\n"
        "class T(unittest.TestCase):\n    def test_it(self):\n"
        "        with tempfile.TemporaryDirectory() as d:\n"
        "            p = pathlib.Path(d) / 'f'\n            p.write_text('2')\n"
        "            self.assertEqual(warmest([1, int(p.read_text())]), 2)\n"
    )
    outcome = await trial(read_module(EXAMPLE), code)
    assert (outcome.run, outcome.failures) == (1, ())


def test_a_diff_is_split_by_file_and_knows_its_lines() -> None:
    """Git's and plain diffs, new and deleted files, and lines that look like headers inside a hunk."""
    diff = (
        "diff --git a/one.py b/one.py\nindex 1..2 100644\n--- a/one.py\n+++ b/one.py\n"
        "@@ -3,2 +3,3 @@ def f():\n--- a removed comment\n same\n+++ an added line\n+more\n"
        "diff --git a/logo.png b/logo.png\nBinary files a/logo.png and b/logo.png differ\n"
        "diff --git a/gone.py b/gone.py\n--- a/gone.py\n+++ /dev/null\n@@ -1 +0,0 @@\n-x\n"
    )
    one, gone = changes_in(diff)
    assert (one.path, sorted(one.lines)) == ("one.py", [3, 4, 5])
    assert (gone.path, gone.lines) == ("gone.py", frozenset())
    with pytest.raises(ConfigError, match="expected a unified diff"):
        changes_in("just text")


def test_a_module_knows_its_import_name_and_what_is_public(tmp_path: Path) -> None:
    """The name is seen from the folder above the outermost package; what is not Python is a clear error."""
    package = tmp_path / "shop" / "till"
    package.mkdir(parents=True)
    for folder in (package, package.parent):
        (folder / "__init__.py").write_text("X = 1\n")
    (package / "sums.py").write_text("def total(): ...\ndef _own(): ...\nclass Sum: ...\n")
    module = read_module(package / "sums.py")
    assert (module.name, module.root, module.public) == ("shop.till.sums", tmp_path, ("total", "Sum"))
    assert undocumented("total and `Sum`", module) == ["total"]
    assert read_module(package / "__init__.py").name == "shop.till"
    (tmp_path / "bad.py").write_text("def (:\n")
    (tmp_path / "latin.py").write_bytes(b"# caf\xe9\n")
    for name, said in (
        ("bad.py", r"bad\.py:1: not Python"),
        ("latin.py", "not UTF-8"),
        ("no.py", "not found"),
    ):
        with pytest.raises(ConfigError, match=said):
            read_module(tmp_path / name)


SHOP = """
class Till:
    def open(self): ...
    def total(self): ...
    def _own(self): ...
class Bag:
    def open(self): ...
def price(x): ...
"""
SHOP_PAGE = (
    "# shop\n\n## `Till`\n\n### `open()`\n\n`total(self)` adds.\n\n## `Bag`\n\n`Bag.open()`\n\n## price\n"
)


@pytest.mark.parametrize(
    ("page", "missing", "foreign"),
    [
        (SHOP_PAGE, [], []),
        (SHOP_PAGE.replace("`total(self)` adds", "The total is there"), ["Till.total"], []),
        (SHOP_PAGE.replace("`Bag.open()`", "It can be opened."), ["Bag.open"], []),
        (SHOP_PAGE.replace("## price", "It has a price."), ["price"], []),
        (SHOP_PAGE + "\n## `refund(x)`\n", [], ["refund"]),
        (SHOP_PAGE + "\nUse `len(bag)`, or `shop.price(2)`.\n", [], []),
        ("```markdown\n" + SHOP_PAGE.replace("total", "total") + "```", [], []),
    ],
)
def test_a_page_documents_every_public_name_and_invents_none(
    page: str, missing: list[str], foreign: list[str], tmp_path: Path
) -> None:
    """Methods count as functions do; names in prose do not count; what the source does not hold is refused."""
    (tmp_path / "shop.py").write_text(SHOP)
    module = read_module(tmp_path / "shop.py")
    assert (undocumented(page_in(page), module), invented(page_in(page), module)) == (missing, foreign)


def test_outer_fences_and_escapes_of_names_go() -> None:
    """A page in one fence is the page; a fence inside of it stays; `read\\_all` is a name."""
    assert page_in("```markdown\n# a\\_b\n\n```python\nx\n```\n```") != "# a_b"
    assert page_in("````md\n# a\\_b\n\n```python\nx\n```\n````") == "# a_b\n\n```python\nx\n```"
    assert page_in("```\n# a\\_b\n```") == "# a_b"


def test_a_package_is_all_its_public_modules(tmp_path: Path) -> None:
    """Files that begin with an underscore, and modules without public names, have no page."""
    for name, text in (("__init__", ""), ("a", "def f(): ..."), ("_b", "def g(): ..."), ("c", "X = 1")):
        (tmp_path / f"{name}.py").write_text(text)
    assert [module.path.name for module in read_modules([tmp_path])] == ["a.py"]
    (tmp_path / "empty").mkdir()
    with pytest.raises(ConfigError, match="holds no Python module"):
        read_modules([tmp_path / "empty"])


def test_code_is_taken_out_of_its_fence() -> None:
    """The largest Python block is the code; an answer without a fence is code as it stands."""
    assert code_in("a\n```python\nx = 1\n```\nb\n```\ny = 1\nz = 2\n```") == "y = 1\nz = 2\n"
    assert code_in("x = 1") == "x = 1"


def test_git_says_what_has_changed(tmp_path: Path) -> None:
    """A range of a repository gives its diff; a wrong range, folder or an option in its place is a clear error."""

    def git(*arguments: str) -> None:
        own = ["-c", "user.name=t", "-c", "user.email=t@localhost", "-c", "commit.gpgsign=false"]
        subprocess.run(["git", "-C", str(tmp_path), *own, *arguments], check=True, capture_output=True)

    git("init", "-q")
    for text in ("a\n", "b\n"):
        (tmp_path / "f.txt").write_text(text)
        git("add", "f.txt")
        git("commit", "-q", "-m", "x")
    assert "+b" in git_diff(str(tmp_path), "HEAD~1..HEAD")
    for revisions, said in (
        ("nowhere..HEAD", "bad revision"),
        ("--output=x", "is an option"),
        ("HEAD..HEAD", "nothing has changed"),
    ):
        with pytest.raises(ConfigError, match=said):
            git_diff(str(tmp_path), revisions)
    assert not (tmp_path / "x").exists()
    # A change of the same size, in the second in which the index was written.
    git("config", "core.trustctime", "false")
    for text in ("b\n", "c\n"):
        (tmp_path / "f.txt").write_text(text)
        os.utime(tmp_path / "f.txt", (9, 9))
        if text == "b\n":
            git("update-index", "--refresh")
    os.utime(tmp_path / ".git" / "index", (9, 9))
    assert "+c" in git_diff(str(tmp_path), "HEAD")
