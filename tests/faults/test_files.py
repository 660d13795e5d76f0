"""Rows 42 to 46 and 50: what is refused before any step, and what others may not read."""

from __future__ import annotations

import os
import socket
import stat
import time
from pathlib import Path

import pytest
from drive import PAID_KEY, Bench, drive, honest
from pydantic import SecretStr

from tta_dev_primitives.config import load_orchestration_config
from tta_dev_primitives.config.errors import ConfigError
from tta_dev_primitives.config.home import tta_home
from tta_dev_primitives.config.reading.api_keys import find_api_key
from tta_dev_primitives.orchestration import MultiModelWorkflow

_HEAD = "orchestration:\n"
TRAPS: dict[str, tuple[bytes, str]] = {
    "42 alias": (b"a: &x 1\nb: *x\n", ":1: .*anchors"),
    "42 bomb": (
        b"a: &a [x,x]\n" + b"".join(b"%c: &%c [*%c,*%c]\n" % (c + 1, c + 1, c, c) for c in range(97, 120)),
        ":1: .*anchors",
    ),
    "42 merge key": (b"orchestration:\n  <<: {enabled: true}\n", ":2: .*merge"),
    "42 tag": (b"orchestration: !!python/object/apply:os.system [id]\n", ":1: .*tag"),
    "42 several documents": (b"a: 1\n---\na: 2\n", ":2: .*document"),
    "43 key twice": (
        b"orchestration:\n  cost_tracking:\n    budget_limit_usd: 1\n    budget_limit_usd: 1000000\n",
        ":4: .*budget_limit_usd.*(twice|again|duplicate|line 3)",
    ),
    "43 section twice": (b"orchestration: {}\norchestration: {}\n", ":2: "),
    **{
        f"44 {text}": (
            f"{_HEAD}  cost_tracking:\n    budget_limit_usd: {text}\n".encode(),
            ":3: .*budget_limit_usd",
        )
        for text in ("0100", "1:30", ".inf", ".nan", "1e3", "0x10", "1_000", "-1")
    },
    **{
        f"44 {word}": (f"{_HEAD}  enabled: {word}\n".encode(), ":2: .*enabled")
        for word in ("yes", "on", "Off", "y")
    },
    "45 not UTF-8": (b"orchestration: \xff\xfe\n", ":1: not UTF-8"),
    "45 UTF-16": ("orchestration: {}\n".encode("utf-16"), "UTF-16"),
    "45 NUL": (b"orchestration:\0 {}\n", ":1: a NUL byte"),
    "45 too large": (b"# " + b"x" * 300_000, r"at most 262,144 \(256 KiB\)"),
    "45 too deep": (b"a: " + b"[" * 5000, "nested deeper than 20 levels"),
    "45 too many values": (b"a: [" + b"1," * 60_000 + b"1]\n", "more than 20,000 values"),
    "45 huge number": (
        _HEAD.encode() + b"  cost_tracking:\n    budget_limit_usd: " + b"9" * 5000 + b"\n",
        ":3: .*a number of 5000 characters",
    ),
}


@pytest.mark.parametrize("name", TRAPS)
def test_a_file_with_a_trap_is_refused(name: str, tmp_path: Path) -> None:
    """Every reader of YAML disagrees about these: refused at once, with file and line."""
    data, words = TRAPS[name]
    path = tmp_path / "orchestration-config.yaml"
    path.write_bytes(data)
    started = time.thread_time()
    with pytest.raises(ConfigError, match=words) as caught:
        MultiModelWorkflow(path)
    assert time.thread_time() - started < 2
    assert str(path) in str(caught.value)
    assert len(str(caught.value).splitlines()[0]) < 500
    assert [entry.name for entry in tmp_path.iterdir()] == [path.name]


def test_only_a_private_regular_file_is_read(tmp_path: Path) -> None:
    """A link to a file is followed (Kubernetes mounts them); nothing else is read, and nothing is waited for."""
    real = tmp_path / "real.yaml"
    real.write_text("orchestration: {}\n")
    (tmp_path / "link.yaml").symlink_to(real)
    assert load_orchestration_config(tmp_path / "link.yaml").enabled
    os.mkfifo(tmp_path / "pipe.yaml")
    (tmp_path / "device.yaml").symlink_to("/dev/zero")
    (tmp_path / "pipe-behind-a-link.yaml").symlink_to(tmp_path / "pipe.yaml")
    (tmp_path / "folder.yaml").mkdir()
    (tmp_path / "loop.yaml").symlink_to(tmp_path / "loop.yaml")
    with socket.socket(socket.AF_UNIX) as server:
        folder = os.open(tmp_path, os.O_RDONLY)
        server.bind(f"/proc/self/fd/{folder}/socket.yaml")
        os.close(folder)
        kinds = {
            "pipe": "named pipe",
            "pipe-behind-a-link": "named pipe",
            "device": "device",
            "folder": "folder",
        }
        for name, kind in {**kinds, "loop": "", "socket": ""}.items():
            with pytest.raises(ConfigError, match=f"{name}.yaml.*{kind}"):
                load_orchestration_config(tmp_path / f"{name}.yaml")
    real.chmod(0o666)
    with pytest.raises(ConfigError, match=r"chmod o-w .*real\.yaml"):
        load_orchestration_config(real)


async def test_files_are_private(tmp_path: Path, bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    """The ledger is 0600 in a 0700 folder under any umask; a `.env` that others may change is not used."""
    if bench.url.startswith("sqlite"):
        before = os.umask(0)
        try:
            own = Bench(
                f"sqlite:///{tmp_path / 'private' / 'ledger.db'}", tmp_path, bench.key, bench.good_url
            )
            async with honest(own, "execute") as (runtime, _):
                assert (await drive(runtime, "execute")).action == "keep"
                files = [path for path in (tmp_path / "private").rglob("*") if path.is_file()]
                assert {stat.S_IMODE(path.stat().st_mode) for path in files} == {0o600}
                assert stat.S_IMODE((tmp_path / "private").stat().st_mode) == 0o700
                await runtime.ledger.database.aclose()
        finally:
            os.umask(before)
    env = tmp_path / ".env"
    env.write_text(f"{PAID_KEY}2={bench.key}\n")
    env.chmod(0o644)
    assert find_api_key(f"{PAID_KEY}2") == SecretStr(bench.key)
    assert "chmod 600" in caplog.text
    env.chmod(0o666)
    with pytest.raises(ConfigError, match="chmod 600"):
        find_api_key(f"{PAID_KEY}2")
    env.chmod(0o600)
    assert find_api_key(f"{PAID_KEY}2") == SecretStr(bench.key)
    env.unlink()
    assert find_api_key(f"{PAID_KEY}2") is None
    assert tta_home().stat().st_mode & 0o077 == 0
