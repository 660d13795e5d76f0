"""The fence around generated tests: every way out that was found or thought of is tried, in each kind of fence."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import socket
import sqlite3
import subprocess
import sys
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from textwrap import indent

import pytest

from tta_dev_primitives.flows.jobs import fence as fences
from tta_dev_primitives.flows.jobs.fence import Fence, FenceError, find_fence, no_fence
from tta_dev_primitives.flows.jobs.modules import Module, read_module
from tta_dev_primitives.flows.jobs.trial import NO_FENCE, trial

pytestmark = pytest.mark.server

ROOT = Path(__file__).parents[2]
MODULE = read_module(ROOT / "flows" / "jobs" / "examples" / "temperature.py")
GOOD = """
import unittest
from temperature import celsius
class GoodTest(unittest.TestCase):
    def test_water(self):
        self.assertEqual([celsius(32), celsius(212)], [0.0, 100.0])
"""
HELD = {"bubblewrap", "landlock"}

# Each is the body of a test method that passes when the way out is open.
ESCAPES = {
    "environment_of_the_parent": "assert open(f'/proc/{os.getppid()}/environ', 'rb').read()",
    "environment": "assert [k for k in os.environ if k not in ('PATH', 'HOME', 'TMPDIR', 'LC_ALL', 'PWD')]",
    "udp": "socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendmsg([b'x'], [], 0, ('127.0.0.1', PORT))",
    "tcp": "socket.create_connection(('127.0.0.1', PORT))",
    "unix_socket": "socket.socket(socket.AF_UNIX).connect(V + '/socket')",
    "netlink": "socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0)",
    "name_lookup": "socket.gethostbyaddr('secret-key.localhost')",
    "read": "assert open(V + '/important.txt').read()",
    "truncate_by_open": "os.close(os.open(V + '/important.txt', os.O_TRUNC))",
    "truncate": "os.truncate(V + '/important.txt', 0)",
    "rename_over": "open('evil', 'w').write('x'); os.rename('evil', V + '/.bashrc')",
    "remove_by_descriptor": "os.remove('remove_me', dir_fd=os.open(V, os.O_RDONLY))",
    "write_by_descriptor": "os.open('wr', os.O_WRONLY | os.O_TRUNC, dir_fd=os.open(V, os.O_RDONLY))",
    "create": "os.close(os.open(V + '/created', os.O_CREAT))",
    "sqlite": "c = sqlite3.connect(V + '/ledger.db'); c.execute('update m set spent=0'); c.commit()",
    "remove_tree": "shutil.rmtree(V + '/docs')",
    "times": "os.utime(V + '/important.txt', (0, 0))",
    "mode": "os.chmod(V + '/important.txt', 0o777)",
    "attribute": "os.setxattr(V + '/important.txt', 'user.x', b'1')",
    "link": "os.link(V + '/important.txt', 'mine'); open('mine', 'a').write('x')",
    "symbolic_link": "os.symlink(V, 'there'); open('there/created', 'w').write('x')",
    "beside_the_folder": "open('../canary', 'a').write('x')",
    "module_under_test": "import temperature; open(temperature.__file__, 'a').write('# x')",
    "interpreter": "open(os.path.join(os.path.dirname(unittest.__file__), 'evil.py'), 'w').write('x')",
    "spawned_process": "multiprocessing.util.spawnv_passfds(sys.executable.encode(), [b'python', b'-c', b'1'], [])",
    "process_pool": "multiprocessing.get_context('spawn').Process(target=print).start()",
    "fork": "os._exit(0) if os.fork() == 0 else None",
    "program": "subprocess.run(['true'], check=True)",
    "exec_of_memory": "os.execve(os.memfd_create('x'), ['x'], {})",
    "c_library": "assert ctypes.CDLL(None).system(b'true') == 0",
    "signal": "os.kill(os.getppid(), 0)",
    "signal_by_descriptor": "signal.pidfd_send_signal(os.pidfd_open(os.getppid()), 0)",
    "signal_by_owner": "fcntl.fcntl(os.pipe()[0], fcntl.F_SETOWN, os.getppid())",
    "signal_by_owner_ex": "fcntl.fcntl(os.pipe()[0], 15, struct.pack('ii', 1, os.getppid()))",
    "signal_by_ioctl": "fcntl.ioctl(os.pipe()[0], 0x8901, struct.pack('i', os.getppid()))",
    "limits_of_the_parent": "resource.prlimit(os.getppid(), resource.RLIMIT_CPU)",
    "trace": "assert ctypes.CDLL(None).ptrace(16, os.getppid(), 0, 0) == 0",
    "memory_of_the_parent": "assert ctypes.CDLL(None).syscall(310, os.getppid(), 0, 0, 0, 0, 0) == 0",
    "namespace": "assert ctypes.CDLL(None).unshare(0x10000000) == 0",
    "mount": "assert ctypes.CDLL(None).mount(b'none', b'.', b'tmpfs', 0, None) == 0",
    "io_uring": "assert ctypes.CDLL(None).syscall(425, 1, ctypes.create_string_buffer(120)) >= 0",
    "shared_memory": "assert ctypes.CDLL(None).shmget(0, 4096, 0o1600) >= 0",
    "ipc_by_number": "c = ctypes.CDLL(None, use_errno=True)\n"
    "for n in (29, 30, 31, *range(64, 72), 220, *range(240, 246)):\n"
    "    c.syscall(n, -1, 0, 0, 0, 0)\n    if ctypes.get_errno() != errno.EPERM: break\nelse: self.fail()",
    "kernel_keyring": "assert ctypes.CDLL(None).syscall(250, 0, -3, 1) >= 0",
    "clock": "time.clock_settime(time.CLOCK_REALTIME, time.time())",
    "owner": "os.setuid(1); os.setuid(0)",
    "memory": "bytearray(4 << 30)",
    "large_file": "open('big', 'wb').write(bytes(20 << 20))",
}
HEAD = """
import ctypes, errno, fcntl, multiprocessing, multiprocessing.util, os, resource, shutil, signal, socket, sqlite3
import struct, subprocess, sys, time, unittest
V, PORT = {victim!r}, {port}
class EscapeTest(unittest.TestCase):
"""


async def fence_of(kind: str, module: Module = MODULE) -> Fence:
    open_one = await no_fence(module)
    held = Fence(kind, open_one.readable, open_one.names)  # type: ignore[arg-type]
    try:
        await held.run({"module": "", "code": "", "change": ""}, 20)
    except FenceError as error:
        pytest.skip(f"no {kind} here: {error}")
    return held


@pytest.fixture
def victim(tmp_path: Path) -> Iterator[Path]:
    (tmp_path / "docs").mkdir()
    for name in ("important.txt", ".bashrc", "remove_me", "wr", "docs/a.txt"):
        (tmp_path / name).write_text("precious")
    database = sqlite3.connect(tmp_path / "ledger.db")
    database.execute("create table m(spent)")
    database.execute("insert into m values(99)")
    database.commit()
    database.close()
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(tmp_path / "socket"))
        listening.listen()
        yield tmp_path


def state(folder: Path) -> dict[str, tuple[int, int, bytes]]:
    """Mode, time and content of every file."""
    return {
        str(p): (p.stat().st_mode, p.stat().st_mtime_ns, p.read_bytes() if p.is_file() else b"")
        for p in sorted(folder.rglob("*"))
    }


@pytest.mark.parametrize("kind", sorted(HELD))
async def test_no_way_out_is_open(kind: str, victim: Path) -> None:
    """Each escape fails inside, and nothing outside has changed: no file, no mode, no time."""
    fence = await fence_of(kind)
    before = state(victim)
    with socket.create_server(("127.0.0.1", 0)) as server:
        code = HEAD.format(victim=str(victim), port=server.getsockname()[1])
        for name, body in ESCAPES.items():
            code += f"    def test_{name}(self):\n{indent(body, ' ' * 8)}\n"
        reply = await fence.run({"module": MODULE.name, "code": code, "change": ""}, 30)
    report = reply["report"]
    assert report is not None, reply
    assert report["passed"] == []
    assert {name for name, _ in report["failed"]} == {f"test_{name}" for name in ESCAPES}
    assert state(victim) == before


async def test_the_escapes_work_without_a_fence(victim: Path) -> None:
    """The list above is no list of mistakes in the tests: unfenced, most of them get out."""
    fence = await no_fence(MODULE)
    working = (
        "read",
        "truncate",
        "rename_over",
        "sqlite",
        "remove_tree",
        "mode",
        "unix_socket",
        "program",
        "fork",
    )
    code = HEAD.format(victim=str(victim), port=9)
    for name in working:
        code += f"    def test_{name}(self):\n{indent(ESCAPES[name], ' ' * 8)}\n"
    reply = await fence.run({"module": MODULE.name, "code": code, "change": ""}, 30)
    assert sorted(reply["report"]["passed"]) == sorted(f"test_{name}" for name in working)


FORGED = '{"passed": ["test_water"], "failed": [], "hollowed": ["f"]}'
# Code in the process can find the secret there; what it then says must still be a report on tests of the file.
FORGE = """
import os, sys, unittest
def write(fd, data):
    try: os.write(fd, data)
    except OSError: pass
def forge(text):
    frame = sys._getframe()
    while "secret" not in frame.f_locals:
        frame = frame.f_back
    os.write(frame.f_locals["pipe"], frame.f_locals["secret"] + text.encode())
    os._exit(0)
"""
FORGERIES = {
    "stdout": f"os.write(1, b'{FORGED}'); os._exit(0)",
    "every descriptor": f"[write(fd, b'{FORGED}') for fd in range(64)]; os._exit(0)",
    "nothing": "os._exit(0)",
    "another exit code": "os._exit(3)",
    "a report in front": f"[write(fd, b'{FORGED}') for fd in range(64)]",
    "death": "os.abort()",
    "a list in place of a report": "forge('[1]')",
    "lists in place of names": 'forge(\'{"passed": [[]], "failed": [1], "hollowed": {}}\')',
    "a lock that did not hold": "forge('{\"unlocked\": []}')",
    "names that are not in the file, with the secret": "forge(FORGED.replace('water', 'invented'))",
    "names that are not in the file": "unittest.TestCase.id = lambda self: 'a.b.test_invented'",
}


@pytest.mark.parametrize("kind", sorted(HELD))
async def test_a_forged_report_is_none(kind: str) -> None:
    """What is written to any descriptor, or a process that ends before its tests have run, is no pass."""
    fence = await fence_of(kind)
    head = f"FORGED = {FORGED!r}\n{FORGE}"
    for name, body in FORGERIES.items():
        outcome = await trial(MODULE, head + GOOD + body + "\n", seconds=20, fence=fence)
        assert (outcome.run, len(outcome.failures)) == (0, 1), name
        assert "without a valid report" in outcome.failures[0], name


@pytest.mark.parametrize("kind", sorted(HELD))
async def test_good_tests_hold(kind: str) -> None:
    """The fence lets honest tests through: files in their folder, threads, asyncio, temporary files."""
    code = GOOD + (
        "import asyncio, tempfile, threading\n"
        "class MoreTest(unittest.TestCase):\n"
        "    def test_files(self):\n"
        "        with tempfile.TemporaryDirectory() as d: open(d + '/f', 'w').write('x')\n"
        "        self.assertEqual(celsius(32), 0.0)\n"
        "    def test_thread(self):\n"
        "        got = []\n"
        "        t = threading.Thread(target=lambda: got.append(celsius(32))); t.start(); t.join()\n"
        "        self.assertEqual(got, [0.0])\n"
        "    def test_loop(self):\n"
        "        async def water(): return celsius(32)\n"
        "        self.assertEqual(asyncio.run(water()), 0.0)\n"
    )
    outcome = await trial(MODULE, code, fence=await fence_of(kind))
    assert (outcome.run, outcome.failures) == (4, ())


@pytest.mark.parametrize("kind", sorted(HELD))
async def test_output_is_not_kept(kind: str) -> None:
    """300 MB on stdout and stderr neither fail the tests nor come into this process."""
    code = (
        "import os, sys\nfor _ in range(300):\n    os.write(1, bytes(1 << 20)); sys.stderr.write('x' * 1000)\n"
        + GOOD
    )
    fence = await fence_of(kind)
    tracemalloc.start()
    outcome = await trial(MODULE, code, fence=fence)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert outcome.failures == ()
    assert peak < 4 << 20


@pytest.mark.parametrize("kind", sorted(HELD))
async def test_a_full_folder_and_an_endless_test_end(kind: str) -> None:
    """Room and time are limited, and a folder nested beyond what Python can remove is removed."""
    fence = await fence_of(kind)
    loops = {
        "room": "for n in range(10**6):\n    open(f'f{n}', 'wb').write(bytes(1 << 20))\n",
        "entries": "for n in range(10**6):\n    open(f'f{n}', 'wb').close()\n",
        "depth": "while True:\n    os.mkdir('d'); os.chdir('d')\n",
        "time": "while True: pass\n",
    }
    for name, loop in loops.items():
        outcome = await trial(MODULE, f"import os\n{loop}{GOOD}", seconds=2, fence=fence)
        assert outcome.run == 0, name
        assert outcome.failures, name


def descendants(process: str) -> set[str]:
    """Processes that a process has started, and those that they have started."""
    try:
        threads = list(Path("/proc", process, "task").iterdir())
        children = {child for t in threads for child in (t / "children").read_text().split()}
    except OSError:
        return set()
    return children.union(*map(descendants, children))


@pytest.mark.parametrize("kind", sorted(HELD))
async def test_a_cancelled_trial_leaves_no_process(kind: str) -> None:
    """Ctrl-C ends the tests with the job."""
    fence = await fence_of(kind)
    before = descendants(str(os.getpid()))
    running = asyncio.create_task(trial(MODULE, "while True: pass", seconds=60, fence=fence))
    while len(started := descendants(str(os.getpid())) - before) < 2:  # noqa: ASYNC110  # the runner, and the tests
        await asyncio.sleep(0.02)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert not [process for process in started if os.access(f"/proc/{process}/exe", os.F_OK)]


@pytest.mark.parametrize("kind", sorted(HELD))
async def test_without_its_reporter_a_trial_is_no_evidence(kind: str) -> None:
    """The process that reports is killed: the tests end with it, and nothing counts as passed."""
    fence = await fence_of(kind)
    before = descendants(str(os.getpid()))
    running = asyncio.create_task(trial(MODULE, f"{GOOD}while True: pass", seconds=60, fence=fence))
    processes = {"bubblewrap": 4, "landlock": 2}[kind]
    while len(started := descendants(str(os.getpid())) - before) < processes:  # noqa: ASYNC110
        await asyncio.sleep(0.02)
    reporter = min(started, key=int)
    os.kill(int(reporter), signal.SIGKILL)
    outcome = await running
    assert (outcome.run, len(outcome.failures)) == (0, 1)
    assert "could not be run" in outcome.failures[0]
    while [process for process in started if os.access(f"/proc/{process}/exe", os.F_OK)]:  # noqa: ASYNC110
        await asyncio.sleep(0.02)


async def test_a_test_that_kills_its_reporter_is_no_evidence() -> None:
    """Possible without a fence only."""
    code = f"{GOOD}import os; os.kill(os.getppid(), 9)"
    outcome = await trial(MODULE, code, fence=await no_fence(MODULE))
    assert (outcome.run, outcome.passed) == (0, ())
    assert "could not be run" in outcome.failures[0]


LINKS = {
    "rates.py": "../outside/secrets.py",
    "notes.py": "notes.txt",
    "dot.py": ".hidden.py",
    "folder": "../outside",
    "shop/outside": "../../outside",
    "shop/above": "..",
    "shop/hidden": "../.git",
}


@pytest.mark.parametrize("kind", sorted(HELD))
async def test_a_link_opens_nothing_outside_of_the_project(kind: str, tmp_path: Path) -> None:
    """A link beside the module or below its package leads to places of the project only."""
    project, outside = tmp_path / "project", tmp_path / "outside"
    for folder in (project / "shop", project / "more", project / ".git", outside):
        folder.mkdir(parents=True)
        (folder / "secrets.py").write_text("KEY = 'sk-1'\n")
    for name in ("notes.txt", ".hidden.py"):
        (project / name).write_text("KEY = 'sk-1'\n")
    for name, target in LINKS.items():
        (project / name).symlink_to(target)
    (project / "shop" / "inside").symlink_to("../more")
    (project / "shop" / "__init__.py").write_text("")
    (project / "shop" / "till.py").write_text(
        "def total(n):\n    return n * 2\ndef never():\n    import rates, notes, dot, folder\n"
    )
    module = read_module(project / "shop" / "till.py")
    closed = [
        "rates.py", "notes.py", "dot.py", "folder/secrets.py", "shop/outside/secrets.py", "shop/above/secrets.py",
        "shop/above/notes.txt", "shop/hidden/secrets.py",
    ]  # fmt: skip
    code = "import unittest\nfrom shop.till import total\nclass T(unittest.TestCase):\n"
    for number, name in enumerate(closed):
        code += f"    def test_{number}(self):\n        with self.assertRaises(OSError): "
        code += f"total(1) and open({str(project / name)!r})\n"
    code += f"    def test_own(self): self.assertTrue(total(1) and open({str(project / 'shop/inside/secrets.py')!r}))\n"
    outcome = await trial(module, code, fence=await fence_of(kind, module))
    assert (outcome.run, outcome.failures) == (len(closed) + 1, ())


@pytest.mark.parametrize("kind", sorted(HELD))
async def test_only_what_the_module_imports_is_in_sight(kind: str, tmp_path: Path) -> None:
    """A sibling that it imports, and its own package; not `.env`, not the other files of the folder."""
    (tmp_path / "shop").mkdir()
    (tmp_path / "shop" / "__init__.py").write_text("")
    (tmp_path / "shop" / "till.py").write_text("import rates\ndef total(n):\n    return n * rates.RATE\n")
    (tmp_path / "rates.py").write_text("RATE = 2\n")
    for name in (".env", "secrets.py", "notes.txt"):
        (tmp_path / name).write_text("KEY='sk-1'\n")
    module = read_module(tmp_path / "shop" / "till.py")
    code = "import unittest\nfrom shop.till import total\nclass T(unittest.TestCase):\n"
    code += "    def test_total(self): self.assertEqual(total(3), 6)\n"
    for number, name in enumerate((".env", "secrets.py", "notes.txt")):
        code += f"    def test_hidden_{number}(self):\n        with self.assertRaises(OSError): "
        code += f"total(1) and open({str(tmp_path / name)!r})\n"
    outcome = await trial(module, code, fence=await fence_of(kind, module))
    assert (outcome.run, outcome.failures) == (4, ())


async def test_without_a_fence_nothing_runs(monkeypatch: pytest.MonkeyPatch, victim: Path) -> None:
    """A machine without bubblewrap and Landlock: no test starts, and the outcome says why."""
    before = state(victim)

    async def refused(*_: object, **__: object) -> dict[str, object]:
        raise FenceError("not here")

    monkeypatch.setattr(Fence, "run", refused)
    assert await find_fence(MODULE) is None
    outcome = await trial(MODULE, f"open({str(victim / 'created')!r}, 'w')\n{GOOD}")
    assert (outcome.run, outcome.failures) == (0, (NO_FENCE,))
    assert state(victim) == before


async def test_a_fence_that_does_not_hold_is_none(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Each run tries its fence first: one that lets a file be read is refused before a test is loaded."""
    lock = tmp_path / "trial_lock.py"
    lock.write_text("def lock(**_): pass\n")
    (tmp_path / "trial_runner.py").write_bytes(
        Path(fences.__file__).with_name("trial_runner.py").read_bytes()
    )
    monkeypatch.setattr(fences, "_RUNNER", tmp_path / "trial_runner.py")
    monkeypatch.setattr(fences, "_LOCK", lock)
    open_one = await no_fence(MODULE)
    for kind, problem in (("landlock", "read a file outside"), ("bubblewrap", "open a socket|exit code")):
        fence = Fence(kind, open_one.readable, open_one.names)  # type: ignore[arg-type]
        with pytest.raises(FenceError, match=problem):
            await fence.run({"module": MODULE.name, "code": GOOD, "change": ""}, 20)


@pytest.mark.skipif(os.geteuid() != 0, reason="becomes another user, which only root can")
def test_the_fence_holds_for_an_ordinary_user(tmp_path: Path) -> None:
    """Landlock and seccomp need no privilege; a user without any is locked in as well."""
    script = (
        "import os, sys\nsys.path.insert(0, sys.argv[1])\nimport trial_lock\n"
        "os.setgid(65534); os.setuid(65534)\n"
        "trial_lock.lock(readable=[sys.prefix], writable='/var/tmp', files=True)\n"
        "for go in (lambda: open('/etc/passwd'), os.fork, lambda: os.listdir('/home')):\n"
        "    try: go()\n"
        "    except OSError as error: print(type(error).__name__)\n"
    )
    done = subprocess.run(
        [sys.executable, "-I", "-c", script, str(Path(fences.__file__).parent)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert re.findall(r"\w+", done.stdout) == ["PermissionError"] * 3, done.stderr
