"""What code that got into a scorer could still do: attacks on each layer by itself."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from interp.grading.time_limit import WorkerError, call_with_time_limit

ROOT = Path(__file__).resolve().parents[1]
ATTACKS = {
    "write a file": "open({file!r}, 'w')",
    "append to a file": "open({there!r}, 'a')",
    "write by number": "os.open({file!r}, os.O_WRONLY | os.O_CREAT)",
    "remove a file": "os.remove({there!r})",
    "move a file": "os.rename({there!r}, {file!r})",
    "make a directory": "os.mkdir({file!r})",
    "cut a file": "os.truncate({there!r}, 0)",
    "link a file": "os.symlink({there!r}, {file!r})",
    "open a socket": "socket.socket()",
    "a pair of sockets": "socket.socketpair()",
    "ask for a name": "socket.getaddrinfo('localhost', 80)",
    "start a process": "subprocess.run(['touch', {file!r}], check=True)",
    "a shell": "os.system('touch ' + {file!r}) and 1 / 0",
    "fork": "os.fork()",
    "become another program": "os.execv('/bin/touch', ['touch', {file!r}])",
    "kill the parent": "os.kill(os.getppid(), 0)",
    "call C": "__import__('ctypes').CDLL(None).fork()",
}
READS = ("open('/etc/passwd')", "os.listdir('/')", "open('/proc/self/environ')")
BY_FILTER = sorted(ATTACKS.keys() - {"ask for a name", "a shell", "call C"})
"""A shell that cannot fork says so by its exit status alone; the C library turns refused calls into other errors."""


def _attack(name: str, tmp_path: Path) -> tuple[str, Path]:
    there = tmp_path / "there"
    there.write_text("kept")
    code = "import os, socket, subprocess\n" + ATTACKS[name].format(file=str(tmp_path / "new"), there=str(there))
    return code, there


def _unharmed(tmp_path: Path) -> bool:
    return [p.name for p in tmp_path.iterdir()] == ["there"] and (tmp_path / "there").read_text() == "kept"


@pytest.mark.parametrize("name", ATTACKS)
def test_a_worker_can_do_nothing(name: str, tmp_path: Path) -> None:
    code, _ = _attack(name, tmp_path)
    with pytest.raises(WorkerError, match=r"may not|not permitted|ZeroDivisionError"):
        call_with_time_limit("builtins:exec", code, seconds=20)
    assert _unharmed(tmp_path)


@pytest.mark.parametrize("code", READS)
def test_a_worker_reads_nothing_but_python(code: str) -> None:
    with pytest.raises(WorkerError, match="may not"):
        call_with_time_limit("builtins:exec", f"import os\n{code}", seconds=20)


def test_the_filter_alone_stops_what_python_never_sees(tmp_path: Path) -> None:
    """Without the audit hook and without limits: each attack fails with EPERM, or else the process goes on."""
    if sys.platform != "linux":
        pytest.skip("seccomp is Linux's own")
    lines = ["import os, socket, subprocess, threading", "from interp.grading.sandbox import _filter", "_filter()"]
    for name in BY_FILTER:
        code, _ = _attack(name, tmp_path)
        statement = code.splitlines()[1]
        lines.append(f"try:\n    {statement}\n    print('done:', {name!r})\nexcept PermissionError:\n    pass")
    lines += ["os.system('touch ' + " + repr(str(tmp_path / "new")) + ")"]
    # What scoring needs goes on: threads, reading, one's own end.
    lines += ["t = threading.Thread(target=print, args=('thread',)); t.start(); t.join()"]
    lines += ["print(open(threading.__file__).readline() != '')"]
    script = "\n".join(lines)
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True)
    assert (done.stdout, done.returncode) == ("thread\nTrue\n", 0), done.stderr
    assert _unharmed(tmp_path)


def test_the_limits_alone_keep_files_empty(tmp_path: Path) -> None:
    script = (
        "import signal\nfrom interp.grading.sandbox import _limit\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n_limit()\n"
        f"with open({str(tmp_path / 'new')!r}, 'wb', buffering=0) as file:\n    file.write(b'x')\n"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True)
    assert "File too large" in done.stderr
    assert (tmp_path / "new").read_bytes() == b""
