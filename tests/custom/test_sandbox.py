"""The process in which files of models are read may neither write nor reach anything."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from deeprecsys.zoo.custom import sandbox

TRIES = """
import importlib.util, json, os, resource, socket, subprocess, sys, threading
about = importlib.util.spec_from_file_location("sandbox", sys.argv[1])
sandbox = importlib.util.module_from_spec(about)
about.loader.exec_module(sandbox)
folder, port, held = sys.argv[2], int(sys.argv[3]), int(sys.argv[4])

def refuse():
    raise OSError("left out by the test")

for name in sys.argv[5:]:
    setattr(sandbox, name, refuse)
print(json.dumps(sandbox.enter()))

def done(what):
    try:
        what()
    except OSError:
        return False
    return True

tries = {
    "connect": lambda: socket.create_connection(("127.0.0.1", port), 5),
    "unix": lambda: socket.socket(socket.AF_UNIX),
    "create": lambda: open(f"{folder}/new", "w"),
    "append": lambda: open(f"{folder}/old", "a"),
    "truncate": lambda: os.truncate(f"{folder}/old", 0),
    "remove": lambda: os.remove(f"{folder}/old"),
    "rename": lambda: os.rename(f"{folder}/old", f"{folder}/older"),
    "folder": lambda: os.mkdir(f"{folder}/folder"),
    "link": lambda: os.symlink("old", f"{folder}/link"),
    "mode": lambda: os.chmod(f"{folder}/old", 0o777),
    "run": lambda: subprocess.run(["/bin/true"]),
    "fork": lambda: os.fork() or os._exit(0),
    "signal": lambda: os.kill(os.getppid(), 0),
    "large": lambda: os.pwrite(held, b"x", sandbox.ANSWER_BYTES),
    "read": lambda: open(f"{folder}/old").read(),
    "thread": lambda: threading.Thread(target=int).start(),
    "answer": lambda: os.pwrite(held, b"x", 0),
}
print(json.dumps([name for name, what in tries.items() if done(what)]))
"""
PERMITTED = {"read", "thread", "answer"}
BY_LANDLOCK = {"connect", "create", "append", "truncate", "remove", "rename", "folder", "link"}


def tried(tmp_path: Path, *left_out: str) -> tuple[dict[str, str], set[str]]:
    """The measures that were refused, and what a process could do in spite of the others."""
    (tmp_path / "old").write_text("as it was")
    with socket.create_server(("127.0.0.1", 0)) as server, (tmp_path / "held").open("wb") as held:
        port = server.getsockname()[1]
        done = subprocess.run(
            [
                sys.executable,
                "-c",
                TRIES,
                sandbox.__file__,
                str(tmp_path),
                str(port),
                str(held.fileno()),
                *left_out,
            ],
            capture_output=True,
            text=True,
            pass_fds=(held.fileno(),),
            timeout=60,
        )
    assert done.returncode == 0, done.stderr
    refused, able = done.stdout.splitlines()[:2]
    return json.loads(refused), set(json.loads(able))


def test_a_process_without_privileges_reads_and_answers_and_does_nothing_else(tmp_path: Path) -> None:
    refused, able = tried(tmp_path)
    if "seccomp" in refused:
        pytest.skip(f"the kernel refuses: {refused}")
    assert able == PERMITTED
    assert (tmp_path / "old").read_text() == "as it was"
    assert {p.name for p in tmp_path.iterdir()} == {"old", "held"}


def test_either_layer_alone_forbids_network_and_writing(tmp_path: Path) -> None:
    refused, able = tried(tmp_path, "_landlock", "_namespaces", "_capabilities")
    if "seccomp" in refused:
        pytest.skip(f"the kernel refuses: {refused}")
    assert able == PERMITTED
    refused, able = tried(tmp_path, "_seccomp")
    if refused.keys() & {"landlock", "namespaces"}:
        pytest.skip(f"the kernel refuses: {refused}")
    assert not able & BY_LANDLOCK
    assert (tmp_path / "old").read_text() == "as it was"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_an_ordinary_user_has_the_same() -> None:
    """The filter and Landlock need no privilege; the network namespace is in a user namespace."""
    program = """import __future__, ctypes, os, platform, resource, runpy, struct, sys, tempfile, typing
import deeprecsys.memory
os.setresgid(65534, 65534, 65534)
os.setresuid(65534, 65534, 65534)
exec(compile(sys.stdin.read(), "sandbox", "exec"), {"__name__": "__main__", "__file__": "/"})
"""
    done = subprocess.run(
        [sys.executable, "-c", program],
        input=Path(sandbox.__file__).read_text(),
        capture_output=True,
        text=True,
        timeout=60,
    )
    if done.returncode == 1 and "refused" in done.stderr:
        pytest.skip(f"the kernel refuses: {done.stderr}")
    assert "every measure holds" in done.stderr


def test_a_files_child_has_no_privileges_and_a_classs_keeps_its_users(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from deeprecsys.zoo.custom import prepare

    started: list[list[str]] = []

    def run(command: list[str], **_: object) -> subprocess.CompletedProcess[bytes]:
        started.append(command)
        return subprocess.CompletedProcess(command, 1)

    monkeypatch.setattr(prepare.subprocess, "run", run)
    (tmp_path / "m.py").touch()
    for name in ("m.onnx", "m.pt2"):
        (tmp_path / name).touch()
    for name in ("m.onnx", "m.pt2", "m.py:C"):
        with pytest.raises(prepare.InputError):
            prepare.own_model(str(tmp_path / name))
    assert [sandbox.__file__ in command for command in started] == [True, True, False]


def test_private_memory_is_held_to_the_cgroups_limit(tmp_path: Path) -> None:
    (tmp_path / "own").write_text("0::/a\n")
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "memory.max").write_text(f"{3 << 30}\n")
    code = (
        "import resource; from pathlib import Path; from deeprecsys import memory; "
        f"memory.most_bytes.__defaults__ = Path({str(tmp_path)!r}), Path({str(tmp_path / 'own')!r}); "
        "from deeprecsys.zoo.custom import sandbox; sandbox.enter(); "
        "print(resource.getrlimit(resource.RLIMIT_DATA)[0])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert int(done.stdout) == 3 << 30
