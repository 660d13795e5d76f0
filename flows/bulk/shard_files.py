"""The files of a job that is split over machines: inputs of the shards, and what they have answered so far. No Prefect.

They lie in `OUT.shards/` beside the output, on storage that all workers share, until the job has ended.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, Literal, Self

from tta_dev_primitives.config import errors, provider_errors
from tta_dev_primitives.config.errors import ConfigError, OrchestrationError
from tta_dev_primitives.flows.bulk.job_file import JobFile
from tta_dev_primitives.flows.bulk.output import open_new, replacing
from tta_dev_primitives.flows.bulk.reader import Record, record_of
from tta_dev_primitives.flows.tasks.result import OrchestrationResult

SILENT_S = 15.0
"""A shard that runs renews its lock file twice a second; after so long without, and unlocked, it is dead."""
_ERRORS: dict[str, type[OrchestrationError]] = {
    name: kind
    for name, kind in {**vars(errors), **vars(provider_errors)}.items()
    if isinstance(kind, type) and issubclass(kind, OrchestrationError)
}


@dataclass(frozen=True, slots=True)
class Answer:
    """What a shard has written for one task."""

    id: str
    digest: str
    result: OrchestrationResult
    error: OrchestrationError | None


@dataclass(slots=True)
class Shard:
    """One shard: its files, its flow run, and how far its output has been read."""

    number: int
    source: Path
    target: Path
    run_id: str = ""
    places: dict[str, tuple[int, int]] = field(default_factory=dict)
    """Id of a task to its byte in `source` and its line in the whole input."""
    taken: set[str] = field(default_factory=set)
    _at: int = 0
    _file: int = 0

    @property
    def lines(self) -> Path:
        """For each task of `source` the number of its line in the whole input."""
        return self.source.with_suffix(".lines")

    @property
    def lock(self) -> Path:
        """The lock file that the shard's process holds."""
        return self.target.with_name(self.target.name + ".lock")

    def process(self) -> Literal["works", "gone", "unseen"]:
        """Whether a process works on the shard; `gone`: it left its lock, free and not renewed for a while."""
        try:
            fd = os.open(self.lock, os.O_RDWR | os.O_CLOEXEC)
        except FileNotFoundError:
            return "unseen"
        try:
            # Both times by the clock of the file system that all machines share.
            now = self.source.with_name("clock")
            now.touch()
            if now.stat().st_mtime - os.fstat(fd).st_mtime < SILENT_S:
                return "works"
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return "works"
        finally:
            os.close(fd)
        return "gone"

    def record(self, name: str) -> Record | None:
        """The task of an id, as it stands in the whole input; None when this shard does not have it."""
        place = self.places.get(name)
        if place is None:
            return None
        with open(self.source, "rb") as file:
            file.seek(place[0])
            found = record_of(json.loads(file.readline()), place[1], allow_extra=True)
        assert isinstance(found, Record)
        return found

    def answers(self, *, ended: bool) -> Iterator[Answer]:
        """What was answered since the last look; tasks that failed only when the shard has ended: it tries again."""
        if not self.target.exists():
            return
        with open(self.target, "rb") as file:
            found = os.fstat(file.fileno())
            if found.st_ino != self._file or found.st_size < self._at or ended:
                self._file, self._at = found.st_ino, 0  # the shard has put its output in order
            file.seek(self._at)
            last: dict[str, Answer] = {}
            for answer in _lines(file):
                self._at = file.tell()
                if answer.id not in self.taken and (answer.error is None or ended):
                    last[answer.id] = answer
        for name, answer in last.items():
            self.taken.add(name)
            yield answer


def _lines(file: BinaryIO) -> Iterator[Answer]:
    while (line := file.readline()).endswith(b"\n"):
        found: dict[str, Any] = json.loads(line)
        error, digest = found.pop("error"), found.pop("digest", "")
        name = found.pop("id")
        result: OrchestrationResult = OrchestrationResult.model_validate({**found, "id": name})
        yield Answer(name, digest, result, None if error is None else _error(error))


def _error(said: dict[str, str]) -> OrchestrationError:
    kind = _ERRORS.get(said["type"], OrchestrationError)
    # Its details were written as text; some kinds cannot be made without them.
    error = kind.__new__(kind)
    OrchestrationError.__init__(error, said["message"])
    return error


class ShardFiles:
    """The folder of a job's shards."""

    def __init__(self, output: Path) -> None:
        self.folder = output.resolve().with_name(output.name + ".shards")
        self.shards: list[Shard] = []

    @classmethod
    def open(cls, output: Path) -> Self:
        """The shards that an earlier run of the job left, with what they have to do; none at first.

        Raises:
            ConfigError: The folder cannot be made or holds something else.
        """
        files = cls(output)
        try:
            # A link that came with the folder is not followed.
            files.folder.mkdir(exist_ok=not files.folder.is_symlink())
            text = (files.folder / "shards.json").read_bytes()
        except FileNotFoundError:
            return files
        except OSError as error:
            raise ConfigError(f"{files.folder}: {error.strerror}. Choose another --out.") from None
        for number, run_id in enumerate(json.loads(text)["runs"]):
            shard = files._shard(number, run_id)
            at = 0
            with open(shard.source, "rb") as tasks, open(shard.lines, encoding="ascii") as lines:
                for task, line in zip(tasks, lines, strict=True):
                    shard.places[json.loads(task)["id"]] = (at, int(line))
                    at += len(task)
            files.shards.append(shard)
        return files

    def split(self, records: Iterable[Record], count: int, job: JobFile) -> list[Shard]:
        """Deal records out to `count` new shards, each with the job's plan; fewer when there are fewer records."""
        made = [self._shard(len(self.shards) + n) for n in range(count)]
        for shard in made:
            shard.target.unlink(missing_ok=True)
        with ExitStack() as open_files:
            sources = [open_files.enter_context(open(open_new(shard.source), "wb")) for shard in made]
            lines = [
                open_files.enter_context(open(open_new(shard.lines), "w", encoding="ascii")) for shard in made
            ]
            for n, record in enumerate(records):
                part = n % count
                made[part].places[record.id] = (sources[part].tell(), record.number)
                sources[part].write(_line(record))
                lines[part].write(f"{record.number}\n")
        kept = [shard for shard in made if shard.places]
        for shard in kept:
            JobFile(
                input=str(shard.source), config_digest=job.config_digest, plan=job.plan, planned=True
            ).write(shard.target)
        self.shards += kept
        self.save()
        return kept

    def save(self) -> None:
        """Remember which flow run carries which shard, whole or not at all."""
        with replacing(self.folder / "shards.json") as file:
            file.write(json.dumps({"runs": [shard.run_id for shard in self.shards]}).encode() + b"\n")

    def remove(self) -> None:
        """Delete the folder: everything in it is in the job's output."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def _shard(self, number: int, run_id: str = "") -> Shard:
        source, target = self.folder / f"{number}.jsonl", self.folder / f"{number}.out.jsonl"
        return Shard(number, source, target, run_id)


def _line(record: Record) -> bytes:
    entry: dict[str, Any] = {**record.extra, "id": record.id, "task": record.task}
    more = {"use_case": record.use_case, "system": record.system, "seed": record.seed}
    entry |= {name: value for name, value in more.items() if value is not None}
    if record.output is not None:
        entry["schema"] = dict(record.output.schema)
    return json.dumps(entry, ensure_ascii=False).encode() + b"\n"
