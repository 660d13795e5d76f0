"""The review job: diffs, findings and their citations, formats for CI, exit codes."""

from __future__ import annotations

import io
import json
import re
import sys
from pathlib import Path

import pytest
import yaml
from sandbox_runs import At

from tta_dev_primitives.cli import main
from tta_dev_primitives.flows.jobs.diffs import FileChange, changes_in, chosen
from tta_dev_primitives.flows.jobs.findings import (
    Finding,
    github,
    markdown,
    problems_of,
    read_findings,
    sarif,
    severe,
)

APP = FileChange("src/app.py", "", frozenset(range(10, 15)))
SPACED = FileChange("my dir/\u00e4 b.py", "", frozenset({3}))

RIGHT = [
    "- src/app.py:12: high: no check",
    "- **src/app.py:12**: high: no check",
    "- **`src/app.py:12`** - **High**: no check",
    "- ./src/app.py:12: low: no check",
    "- b/src/app.py:12-13: medium: no check",
    "- app.py:12: high: no check",
    "1. src/app.py:12: high: no check",
    "2) src/app.py:12:5: high: no check",
    "| File | Severity | Finding |\n|--|--|--|\n| src/app.py:12 | high | no check |",
    "- [src/app.py:12](https://example.org/src/app.py#L12): high: no check",
    "- src/app.py:12: high: no check\nThe service at localhost:5432 stays.\n- localhost:8080 is hard coded",
    '[{"file": "src/app.py", "line": 12, "severity": "high", "message": "no check"}]',
    '```json\n{"findings": [{"path": "src/app.py", "first_line": 12, "severity": "low", "message": "x"}]}\n```',
]
WRONG = [
    ("1. src/app.py:99999: high: x", "cites line 99999"),
    ("| src/app.py:99 | high | x |", "cites line 99"),
    ("- src/app.py:12-99: high: x", "cites line 99"),
    ("- src/app.py:13-12: high: x", "cites lines 13-12"),
    ("* **src/app.py:1**: high: x", "cites line 1"),
    ("- other.py:12: high: x", "cites other.py"),
    ("- my dir/other one.py:12: high: x", "cites my dir/other one.py"),
    ('[{"file": "src/app.py", "line": 1, "severity": "high", "message": "x"}]', "cites line 1"),
    ('[{"file": "src/app.py", "line": "12", "severity": "high", "message": "x"}]', "no finding can be read"),
    ("All of this looks quite good.", "no finding can be read"),
    ("", "no finding can be read"),
]


@pytest.mark.parametrize("answer", RIGHT)
def test_a_right_citation_is_taken_in_any_form(answer: str) -> None:
    """Lists, numbers, tables, links, emphasis, other spellings of the path, JSON; prose with a port is prose."""
    assert problems_of(answer, APP) == []
    (finding,) = read_findings(answer, APP) or []
    assert (finding.path, finding.first_line) == ("src/app.py", 12)


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        ("- src/app.py:12: high: write (f - 32) * 5 / 9, or x[0]", "write (f - 32) * 5 / 9, or x[0]"),
        ("- **src/app.py:12**: **high:** `a_b` and __init__ differ", "`a_b` and __init__ differ"),
        ("- [`src/app.py:12`](src/app.py) - _high_ - __init__ of *args", "__init__ of *args"),
        ("**src/app.py:12: high: all of it is bold**", "all of it is bold"),
        ("- `src/app.py:12` - `high`: [x] is a list", "[x] is a list"),
        ("- `src/app.py:12`: `foo` may be None", "`foo` may be None"),
        ("1. src/app.py:12 (severity: high) *p is null", "*p is null"),
    ],
)
def test_the_message_of_a_finding_stays_as_it_was_written(answer: str, message: str) -> None:
    """Code in it may hold what is decoration elsewhere."""
    (finding,) = read_findings(answer, APP) or []
    assert finding.message == message


@pytest.mark.parametrize(("answer", "problem"), WRONG)
def test_a_wrong_citation_is_refused_in_any_form(answer: str, problem: str) -> None:
    """Another file, a line or the end of a range outside of the diff, or no finding at all."""
    assert problem in "; ".join(problems_of(answer, APP))


@pytest.mark.parametrize(
    "answer", ["No findings.", "**No findings.**", "no issues found", "[]", '{"findings": []}']
)
def test_nothing_found_is_an_answer(answer: str) -> None:
    """A review may say that there is nothing."""
    assert read_findings(answer, APP) == []


def test_a_path_with_spaces_is_cited_like_any_other() -> None:
    """Only lines that the diff shows are taken."""
    assert problems_of("- my dir/\u00e4 b.py:3: high: x", SPACED) == []
    assert problems_of("- my dir/\u00e4 b.py:4: high: x", SPACED) != []


DIFF = """diff --cc merged.py
index 1,2..3
--- a/merged.py
+++ b/merged.py
@@@ -1,2 -1,2 +1,3 @@@
  same
- old
 -other
++new
 +mine
diff --git "a/\\303\\244 b.py" "b/\\303\\244 b.py"
--- "a/\\303\\244 b.py"
+++ "b/\\303\\244 b.py"
@@ -1 +1 @@
-x
+y
\\ No newline at end of file
diff --git a/a dir/b c.py b/a dir/b c.py
--- a/a dir/b c.py\t
+++ b/a dir/b c.py\t
@@ -0,0 +1,2 @@
+x

diff --git a/old.py b/new.py
similarity index 90%
rename from old.py
rename to new.py
--- a/old.py
+++ b/new.py
@@ -5 +5 @@
-a
+b
diff --git a/gone.py b/gone.py
--- a/gone.py
+++ /dev/null
@@ -1 +0,0 @@
-x
diff --git a/package-lock.json b/package-lock.json
--- a/package-lock.json
+++ b/package-lock.json
@@ -1 +1 @@
-x
+y
"""


def test_merges_renames_deletions_and_odd_paths_are_read() -> None:
    """Lines count in the new file; a merge's hunks have one column for each parent."""
    assert {change.path: sorted(change.lines) for change in changes_in(DIFF)} == {
        "merged.py": [1, 2, 3],
        "\u00e4 b.py": [1],
        "a dir/b c.py": [1, 2],
        "new.py": [5],
        "gone.py": [],
        "package-lock.json": [1],
    }


@pytest.mark.parametrize(
    ("include", "exclude", "left_out"),
    [
        ((), None, ["package-lock.json"]),
        (("package-lock.json",), None, ["merged.py", "\u00e4 b.py", "a dir/b c.py", "new.py", "gone.py"]),
        (("a dir/**", "*.json"), (), ["merged.py", "\u00e4 b.py", "new.py", "gone.py"]),
        ((), ("*.py",), ["merged.py", "\u00e4 b.py", "a dir/b c.py", "new.py", "gone.py"]),
    ],
)
def test_globs_choose_the_files(
    include: tuple[str, ...], exclude: tuple[str, ...] | None, left_out: list[str]
) -> None:
    """Lock files are left out by default; a file that is named whole is always taken."""
    options = {} if exclude is None else {"exclude": exclude}
    assert chosen(changes_in(DIFF), include, **options)[1] == left_out


FINDINGS = [
    Finding(
        path="a b.py",
        first_line=3,
        last_line=4,
        severity="high",
        message="50 % off\n::error::x",
        suggestion="y",
    ),
    Finding(path="c.py", first_line=1, last_line=1, severity="low", message="z"),
]


def test_formats_for_other_tools() -> None:
    """SARIF 2.1.0 levels and regions; a model's text cannot begin a workflow command."""
    log = sarif(FINDINGS, version="1.2")
    (run,) = log["runs"]
    assert [result["level"] for result in run["results"]] == ["error", "note"]
    assert run["results"][0]["locations"][0]["physicalLocation"] == {
        "artifactLocation": {"uri": "a%20b.py"},
        "region": {"startLine": 3, "endLine": 4},
    }
    first, second = github(FINDINGS).splitlines()
    assert (
        first == "::error file=a b.py,line=3,endLine=4,title=review high::50 %25 off%0A::error::x%0ATo fix: y"
    )
    assert second.startswith("::notice file=c.py,line=1,")
    assert markdown(FINDINGS).splitlines()[0] == "- a b.py:3-4: high: 50 % off ::error::x To fix: y"


def test_a_finding_holds_no_link_picture_or_html() -> None:
    """What a hostile change made the model write is posted under a pull request and shown by code scanning."""
    text = "See [here](http://e.x) ![p](http://e.x/p) <img src=x> <http://e.x> [a][b] www.e.x a@e.x @user "
    text += "if a < b: return x[0]"
    found = [
        Finding(path="a[b](c).py", first_line=1, last_line=1, severity="low", message=text, suggestion=text)
    ]
    for shown in (markdown(found), sarif(found, version="1")["runs"][0]["results"][0]["message"]["text"]):
        assert not re.search(r"\]\(|\]\[|<[a-z]|://|www\.|@\w", shown)
        assert "if a < b: return x[0]" in shown


def test_levels() -> None:
    """`any` takes all, a level takes what is as bad or worse."""
    assert [len(severe(FINDINGS, level)) for level in ("high", "medium", "any")] == [1, 1, 2]  # type: ignore[arg-type]


CHANGE = "--- a/app.py\n+++ b/app.py\n@@ -1 +1 @@\n-a\n+b\n"
LOCK = "--- a/poetry.lock\n+++ b/poetry.lock\n@@ -1 +1 @@\n-a\n+" + "x" * 790_000 + "\n"


@pytest.mark.parametrize(
    ("found", "options", "code"),
    [
        ("- app.py:1: medium: wrong sum", [], 0),
        ("- app.py:1: medium: wrong sum", ["--fail-on", "high"], 0),
        ("- app.py:1: medium: wrong sum", ["--fail-on", "medium"], 1),
        ("- app.py:1: low: wrong sum", ["--fail-on", "any"], 1),
        ("No findings.", ["--fail-on", "any"], 0),
    ],
)
def test_a_seeded_fault_fails_the_gate(
    found: str,
    options: list[str],
    code: int,
    at: At,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """`git diff | tta job review - --fail-on medium` exits with 1; a lock file of 790 kB is left out."""
    rules = [{"match": {"prompt": "solve"}, "reply": {"text": found}}]
    workflow = at(yaml.safe_dump({"rules": rules}))
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO((CHANGE + LOCK).encode())))
    with pytest.raises(SystemExit) as ended:
        main(["job", "review", "-", "-c", str(workflow.config.source), "--json", *options])
    out, err = capsys.readouterr()
    assert ended.value.code == code, err
    assert [one["severity"] for one in json.loads(out)["findings"]] == (
        [] if found == "No findings." else [found.split(": ")[1]]
    )
    assert "left out: poetry.lock" in err


def test_a_change_of_skipped_files_alone_passes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Nothing is asked and no server is started when there is nothing to review."""
    (tmp_path / "p.diff").write_text(LOCK)
    with pytest.raises(SystemExit, match="0"):
        main(["job", "review", str(tmp_path / "p.diff")])
    assert "Nothing to review; left out: poetry.lock" in capsys.readouterr().err
