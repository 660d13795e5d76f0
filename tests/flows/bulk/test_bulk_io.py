"""The files of a bulk job: what is read, what is refused with its line, and an output that outlives kills."""

from __future__ import annotations

import json
import os
import re
import resource
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from decimal import Decimal
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tta_dev_primitives.config import OrchestrationConfig
from tta_dev_primitives.config.errors import ConfigError, OrchestrationError
from tta_dev_primitives.flows.bulk.csv_output import jsonl_beside, write_csv
from tta_dev_primitives.flows.bulk.file_job import FileJob
from tta_dev_primitives.flows.bulk.job_file import JobFile
from tta_dev_primitives.flows.bulk.output import JobBusyError, Output, OutputError
from tta_dev_primitives.flows.bulk.reader import BrokenLine, Record, read_records, record_of
from tta_dev_primitives.flows.bulk.shard_files import ShardFiles
from tta_dev_primitives.flows.tasks.result import BudgetView, OrchestrationResult


def result(text: str = "answer") -> OrchestrationResult:
    budget = BudgetView(month="2026-11", limit_usd=None, spent_usd=Decimal(0), held_usd=Decimal(0))
    return OrchestrationResult(
        content=text, model="m", provider="p", use_case="simple", accepted=True, budget=budget
    )


def write_tasks(path: Path, *ids: str) -> Path:
    path.write_text("".join(json.dumps({"id": i, "task": f"task {i}"}) + "\n" for i in ids))
    return path


def ids_in(path: Path) -> list[str]:
    return [json.loads(line)["id"] for line in path.read_text().splitlines()]


FAILED = {"type": "AllModelsFailedError", "message": "every model failed"}


def test_broken_lines_are_named_and_the_rest_is_read(tmp_path: Path) -> None:
    """A line that is no task is reported with its number and reason; the lines around it are read."""
    source = tmp_path / "in.jsonl"
    source.write_bytes(
        b'\xef\xbb\xbf{"id": 1, "task": "one"}\n'
        b"{broken\n"
        b"\n"
        b'{"task": "no id"}\n'
        b'{"id": "e", "task": "  "}\n'
        b'["a list"]\n'
        b'{"id": "u", "task": "t", "use_case": "nonsense"}\n'
        b'{"id": "b", "task": "\xff"}\n'
        b'{"id": "last", "task": "no line end", "use_case": "simple", "system": "s"}'
    )
    found = list(read_records(source))
    assert [(r.number, r.id) for r in found if isinstance(r, Record)] == [(1, "1"), (9, "last")]
    reasons = {r.number: r.reason for r in found if isinstance(r, BrokenLine)}
    assert list(reasons) == [2, 4, 5, 6, 7, 8]
    assert "not JSON" in reasons[2]
    assert '"id"' in reasons[4]
    assert "empty" in reasons[5]
    assert "list" in reasons[6]
    assert "nonsense" in reasons[7]
    assert "UTF-8" in reasons[8]


def test_a_csv_is_read_with_quoted_line_breaks(tmp_path: Path) -> None:
    """Columns are found by the header; a row of another width is broken and has its line number."""
    source = tmp_path / "in.csv"
    source.write_text('id,use_case,task\n1,simple,"two\nlines"\n2,x\n3,,plain\n', newline="")
    found = list(read_records(source))
    assert [(r.id, r.task, r.use_case) for r in found if isinstance(r, Record)] == [
        ("1", "two\nlines", "simple"),
        ("3", "plain", None),
    ]
    assert [r.number for r in found if isinstance(r, BrokenLine)] == [4]


def test_an_open_quote_swallows_no_tasks(tmp_path: Path) -> None:
    """The lines after it would be paid as one task."""
    source = tmp_path / "in.csv"
    source.write_text('id,task\n0,"a" b\n1,"two\nlines"\n2,"open\n3,c\n')
    strange, whole, broken = read_records(source)
    assert isinstance(whole, Record)
    assert (strange.number, whole.number, broken.number) == (2, 3, 5)
    assert isinstance(broken, BrokenLine)
    assert "Is a quote not closed" in broken.reason


def test_a_csv_without_the_columns_says_which_are_missing(tmp_path: Path) -> None:
    """The header must name `id` and `task`; what stands there is quoted."""
    source = tmp_path / "in.csv"
    for text, shown in (
        ("name,text\n1,a\n", "'name,text'"),
        ("id|task\n", "'id|task'"),
        ("\nid,task\n", "''"),
    ):
        source.write_text(text)
        with pytest.raises(ConfigError, match=re.escape(f"id and task: {shown}")):
            list(read_records(source))
    source.write_text('id,"task\n')
    with pytest.raises(ConfigError, match="line 1: not CSV"):
        list(read_records(source))


def test_a_line_of_any_length_does_not_fill_the_memory(tmp_path: Path) -> None:
    """An absurdly long line is broken and skipped; the next one is read under its own number."""
    source = tmp_path / "in.jsonl"
    source.write_text('{"id": "1", "task": "' + "x" * 5_000_000 + '"}\n{"id": "2", "task": "t"}\n')
    first, second = read_records(source)
    assert isinstance(first, BrokenLine)
    assert isinstance(second, Record)
    assert (first.number, second.number) == (1, 2)


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(max_size=20),
        lambda s: st.dictionaries(st.sampled_from(["id", "task", "use_case", "system", "x"]), s, max_size=5),
        max_leaves=10,
    )
)
def test_any_json_value_is_a_task_or_a_reason(entry: object) -> None:
    """Whatever stands on a line, it never raises."""
    found = record_of(entry, 1)
    assert isinstance(found, Record) or found.reason


def test_an_output_is_appended_whole_and_known_again(tmp_path: Path) -> None:
    """What one run answered is done for the next; what failed is to be tried again."""
    target = tmp_path / "out.jsonl"
    one, two = Record(1, "1", "a"), Record(2, "2", "b")
    with Output(target) as output:
        output.write(one, result(), None)
        output.write(two, result(""), FAILED)
    with Output(target) as output:
        assert [output.done(one), output.done(two), output.done(Record(3, "3", "c"))] == [
            "done",
            "failed",
            "todo",
        ]
        assert output.done(Record(1, "1", "another text")) == "changed"
    line = json.loads(target.read_text().splitlines()[0])
    assert OrchestrationResult.model_validate(line).content == "answer"
    assert line["error"] is None


def test_each_id_stands_once_when_the_run_ends(tmp_path: Path) -> None:
    """A failed task's line gives way to its answer, and an answer never to a later failure."""
    target = tmp_path / "out.jsonl"
    one, two = Record(1, "1", "a"), Record(2, "2", "b")
    with Output(target) as output:
        output.write(one, result(""), FAILED)
        output.write(two, result("kept"), None)
        output.write(one, result("now"), None)
        output.write(two, result(""), FAILED)
        output.finish()
    lines = [json.loads(line) for line in target.read_text().splitlines()]
    assert [(line["id"], line["content"]) for line in lines] == [("2", "kept"), ("1", "now")]


def test_the_output_can_be_put_into_the_order_of_the_input(tmp_path: Path) -> None:
    """`ordered` sorts by the input's lines; results of tasks that the input no longer holds come last."""
    target = tmp_path / "out.jsonl"
    records = [Record(n, str(n), "t") for n in range(1, 6)]
    with Output(target) as output:
        for record in records[:4]:
            assert output.is_new(record)
        for record in (records[4], *reversed(records[:4])):
            output.write(record, result(), None)
        output.finish(ordered=True)
    assert ids_in(target) == ["1", "2", "3", "4", "5"]


@pytest.mark.parametrize("cut", [1, 30, 200])
def test_a_half_written_line_is_cut_off(tmp_path: Path, cut: int) -> None:
    """A killed run may leave half a line; the next one removes it and does that task again."""
    target = tmp_path / "out.jsonl"
    with Output(target) as output:
        output.write(Record(1, "1", "a"), result(), None)
        output.write(Record(2, "2", "b"), result(), None)
    os.truncate(target, target.stat().st_size - cut)
    with Output(target) as output:
        assert output.done(Record(1, "1", "a")) == "done"
        assert output.done(Record(2, "2", "b")) == "todo"
    assert ids_in(target) == ["1"]


@pytest.mark.parametrize("text", ["my notes\n", "my notes", '{"key": 1}', "{", '{"id": "1", "error": null'])
def test_a_file_that_is_no_output_is_left_alone(tmp_path: Path, text: str) -> None:
    """Another file given as --out by mistake is neither read as results nor changed; a torn result is."""
    target = tmp_path / "notes.txt"
    target.write_text(text)
    if '{"id": '.startswith(text[:7]):
        with Output(target):
            assert target.read_text() == ""
        return
    with pytest.raises(ConfigError, match=r"line 1.*left as it is"):
        Output(target)
    assert target.read_text() == text


def test_links_beside_the_output_are_not_followed(tmp_path: Path) -> None:
    """A folder that was cloned may hold links where a job keeps its lock and its other files."""
    victim, target = tmp_path / "victim", tmp_path / "out.csv"
    victim.write_text("precious")
    for name in ("out.csv.jsonl.tmp", "out.csv.tmp", "out.csv.jsonl.job.json.tmp", "out.csv.jsonl.shards"):
        (tmp_path / name).symlink_to(victim if "shards" not in name else tmp_path)
    beside = jsonl_beside(target)
    with Output(beside) as output:
        output.write(Record(1, "1", "a"), result(), None)
        output.finish(ordered=True)
    JobFile(input="in", config_digest="").write(beside)
    write_csv(beside, target, None)
    with pytest.raises(ConfigError, match="shards: File exists"):
        ShardFiles.open(beside)
    for name in ("out.csv.jsonl.lock", "other.csv.jsonl"):
        (tmp_path / name).symlink_to(victim)
    with pytest.raises(ConfigError, match=r"out\.csv\.jsonl\.lock: Too many levels of symbolic links"):
        Output(beside)
    with pytest.raises(ConfigError, match="is a symbolic link"):
        jsonl_beside(tmp_path / "other.csv")
    assert victim.read_text() == "precious"


def test_a_second_process_is_refused_and_a_killed_one_frees_the_job(tmp_path: Path) -> None:
    """One process writes an output; its lock ends with it, however it ends."""
    target = tmp_path / "out.jsonl"
    code = (
        "import sys, time; from pathlib import Path; from tta_dev_primitives.flows.bulk.output import Output\n"
        "o = Output(Path(sys.argv[1])); print('locked', flush=True); time.sleep(60)"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, str(target)], stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "locked\n"
        with pytest.raises(JobBusyError, match=f"process {other.pid} is running this job"):
            Output(target)
        other.kill()
    with Output(target):
        pass
    assert not (tmp_path / "out.jsonl.lock").exists()


@contextmanager
def files_of_at_most(size: int) -> Iterator[None]:
    """Let no file of this process grow beyond `size`: to a writer this is a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_full_disk_is_said_and_leaves_whole_lines(tmp_path: Path) -> None:
    """The line that did not fit is taken back; what stood before is whole."""
    target = tmp_path / "out.jsonl"
    with Output(target) as output:
        output.write(Record(1, "1", "a"), result(), None)
        with (
            files_of_at_most(target.stat().st_size + 100),
            pytest.raises(OutputError, match="run the job again"),
        ):
            output.write(Record(2, "2", "b"), result("x" * 5000), None)
        output.write(Record(3, "3", "c"), result(), None)
    assert ids_in(target) == ["1", "3"]


OpenJob = Callable[..., FileJob]


@pytest.fixture
def open_job(tmp_path: Path) -> OpenJob:
    """Opens the job of in.jsonl and out.jsonl."""

    def opened(
        config: OrchestrationConfig | None = None, *, force: bool = False, samples: int = 1
    ) -> FileJob:
        source, target = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
        return FileJob.open(config or OrchestrationConfig(), source, target, force=force, samples=samples)

    return opened


def test_a_repeated_id_runs_once_and_is_reported(tmp_path: Path, open_job: OpenJob) -> None:
    """The first line of an id counts."""
    write_tasks(tmp_path / "in.jsonl", "1", "2", "1")
    with open_job() as job:
        assert [r.number for r in job.todo()] == [1, 2]
        assert [(one.line, one.id) for one in job.duplicates] == [(3, "1")]
    with open_job(samples=3) as job:
        assert [(one.line, one.id) for one in job.duplicates] == [(3, "1#1")]
        assert (job.progress.total, job.progress.duplicates) == (6, 1)


def test_lines_that_come_while_it_runs_are_left_to_the_next_run(tmp_path: Path, open_job: OpenJob) -> None:
    """A file that grows: a run does what stood there when it began, the next one the rest."""
    source = write_tasks(tmp_path / "in.jsonl", "1", "2")
    with open_job() as job:
        job.add_run("run")
        write_tasks(tmp_path / "more.jsonl", "3")
        with open(source, "ab") as file:
            file.write((tmp_path / "more.jsonl").read_bytes())
        todo = list(job.todo())
        assert [r.id for r in todo] == ["1", "2"]
        for record in todo:
            job.write(record, result(), None)
    with open_job() as job:
        assert [r.id for r in job.todo()] == ["3"]
        assert (job.progress.skipped, job.progress.total) == (2, 1)


def test_an_empty_input_is_an_error(tmp_path: Path, open_job: OpenJob) -> None:
    """Nothing to do is most likely the wrong file."""
    (tmp_path / "in.jsonl").write_text("\n\n")
    with pytest.raises(ConfigError, match="no task"):
        open_job()
    assert [path.name for path in tmp_path.iterdir()] == ["in.jsonl"]


@pytest.mark.parametrize("folder", [".", "/", "here"])
def test_a_folder_is_no_output(tmp_path: Path, folder: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is said to be one, whatever its name, and nothing is left in it."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "here").mkdir()
    source = write_tasks(tmp_path / "in.jsonl", "1")
    with pytest.raises(ConfigError, match="is a folder"):
        FileJob.open(OrchestrationConfig(), source, Path(folder), force=False)
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["here", "in.jsonl"]


def test_the_input_is_never_the_output(tmp_path: Path) -> None:
    """A job cannot write into its own tasks."""
    source = write_tasks(tmp_path / "in.jsonl", "1")
    with pytest.raises(ConfigError, match="input itself"):
        FileJob.open(OrchestrationConfig(), source, source, force=False)
    assert ids_in(source) == ["1"]


def test_a_changed_configuration_must_be_forced_when_results_would_mix(
    tmp_path: Path, open_job: OpenJob
) -> None:
    """Half the answers from one configuration and half from another is said and refused; the budget may change."""
    write_tasks(tmp_path / "in.jsonl", "1", "2")
    with open_job() as job:
        job.add_run("run")
        job.write(next(iter(job.todo())), result(), None)
    other = OrchestrationConfig(quality_threshold=0.5)
    with pytest.raises(ConfigError, match=r"configuration changed.*--force"):
        open_job(other)
    dearer = OrchestrationConfig.model_validate({"cost_tracking": {"budget_limit_usd": 1.0}})
    with open_job(dearer) as job:
        assert [r.id for r in job.todo()] == ["2"]
    with open_job(other, force=True) as job:
        assert "mixed" in job.warnings[0]


def test_a_task_whose_text_changed_must_be_forced(tmp_path: Path, open_job: OpenJob) -> None:
    """An answer belongs to a text: a new text under an old id is not passed off with the old answer."""
    source = write_tasks(tmp_path / "in.jsonl", "1", "2")
    with open_job() as job:
        for record in list(job.todo()):
            job.write(record, result("old"), None)
    source.write_text(source.read_text().replace("task 1", "quite another task"))
    with pytest.raises(ConfigError, match=r"ids 1 .*--force"):
        open_job()
    with open_job(force=True) as job:
        for record in list(job.todo()):
            assert record.id == "1"
            job.write(record, result("new"), None)
        job.finish(ordered=True)
    assert [json.loads(line)["content"] for line in (tmp_path / "out.jsonl").read_text().splitlines()] == [
        "new",
        "old",
    ]


def test_a_failed_task_keeps_its_error_in_its_line(tmp_path: Path, open_job: OpenJob) -> None:
    """The line of a failed task says why, in a field of its own."""
    write_tasks(tmp_path / "in.jsonl", "1")
    with open_job() as job:
        job.write(next(iter(job.todo())), result(""), OrchestrationError("every model failed"))
    line = json.loads((tmp_path / "out.jsonl").read_text())
    assert line["error"] == {"type": "OrchestrationError", "message": "every model failed"}
