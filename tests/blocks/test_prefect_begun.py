"""What the embedded server takes over of a run that began before it answered, and what its file says without it."""

from __future__ import annotations

import json
import urllib.request
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from tta_dev_primitives.blocks.prefect_begun import begun_key, may_begin
from tta_dev_primitives.blocks.prefect_database import holds_limits, lacks_block
from tta_dev_primitives.blocks.prefect_server.manager import ServerInfo
from tta_dev_primitives.blocks.prefect_server.server_settings import ServerHome


def ask(info: ServerInfo, method: str, path: str, body: object = None) -> Any:
    """One request to the API."""
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(
        info.url + path, data, {"content-type": "application/json"}, method=method
    )
    with urllib.request.urlopen(request, timeout=20) as answer:
        return json.loads(answer.read() or b"null")


def test_a_run_keeps_the_id_and_the_start_that_its_key_names(prefect_server: ServerInfo) -> None:
    """Entered a minute after it began, twice over: one run, under its own id, begun when it began."""
    flow_id = ask(prefect_server, "POST", "/flows/", {"name": "begun"})["id"]
    run_id, began = uuid4(), datetime.now(UTC) - timedelta(minutes=1)
    entry = {"flow_id": flow_id, "state": {"type": "RUNNING"}, "idempotency_key": begun_key(run_id, began)}
    runs = [ask(prefect_server, "POST", "/flow_runs/", entry) for _ in range(2)]
    assert [run["id"] for run in runs] == [str(run_id)] * 2
    assert datetime.fromisoformat(runs[0]["start_time"].replace("Z", "+00:00")) == began


@pytest.mark.parametrize("key", ["mine", "tta-began", "tta-began x y", None])
def test_other_keys_mean_what_they_mean_in_prefect(key: str | None, prefect_server: ServerInfo) -> None:
    """The server chooses the id; the start is the moment of asking."""
    flow_id = ask(prefect_server, "POST", "/flows/", {"name": "begun"})["id"]
    before = datetime.now(UTC)
    entry = {"flow_id": flow_id, "state": {"type": "RUNNING"}, "idempotency_key": key and f"{key}{uuid4()}"}
    run = ask(prefect_server, "POST", "/flow_runs/", entry)
    assert datetime.fromisoformat(run["start_time"].replace("Z", "+00:00")) >= before


def test_a_run_waits_for_the_server_where_a_limit_is_saved(prefect_server: ServerInfo) -> None:
    """A task run has to ask for its place then; the file says so at once, and says when it is gone."""
    assert prefect_server.home is not None
    starting = ServerInfo(
        prefect_server.url, prefect_server.ui_url, started=True, ready=False, home=prefect_server.home
    )
    assert may_begin(starting)
    limit = ask(prefect_server, "POST", "/v2/concurrency_limits/", {"name": "tag:use_case:none", "limit": 1})[
        "id"
    ]
    try:
        assert holds_limits(prefect_server.home)
        assert not may_begin(starting)
    finally:
        ask(prefect_server, "DELETE", f"/v2/concurrency_limits/{limit}")
    assert may_begin(starting)


def test_a_run_waits_for_a_server_that_others_use_already(prefect_server: ServerInfo) -> None:
    """Only the server that this process has just started is known to be of this version, and unused."""
    assert not may_begin(
        ServerInfo(prefect_server.url, "", started=False, ready=False, home=prefect_server.home)
    )
    assert not may_begin(ServerInfo("http://127.0.0.1:4200/api", "", started=True, ready=False, home=None))


def test_what_cannot_be_told_is_asked_of_the_api(
    prefect_server: ServerInfo, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A block that is not there is known from the file; with another server or database it is not."""
    assert lacks_block("tta-nothing-of-this-name", prefect_server.url)
    assert not lacks_block("tta-nothing-of-this-name", "http://127.0.0.1:4200/api")
    monkeypatch.setenv("PREFECT_SERVER_DATABASE_CONNECTION_URL", "postgresql+asyncpg://db/prefect")
    assert not lacks_block("tta-nothing-of-this-name", prefect_server.url)
    assert prefect_server.home is not None
    assert holds_limits(prefect_server.home)


def test_a_file_that_is_no_database_says_nothing(tmp_path: Path) -> None:
    """Whatever it is, the server will say; an absent one holds nothing."""
    home = ServerHome(tmp_path)
    assert not holds_limits(home)
    home.folder.mkdir()
    home.database.write_bytes(b"this is no database" * 100)
    assert holds_limits(home)
