"""Memory that is left under limits of cgroups."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from deeprecsys.memory import available_bytes, most_bytes

MACHINE = 8 << 30


@pytest.fixture
def meminfo(tmp_path: Path) -> Path:
    file = tmp_path / "meminfo"
    file.write_text(f"MemTotal: 99999999 kB\nMemAvailable:   {MACHINE >> 10} kB\nBuffers: 5 kB\n")
    return file


def written(folder: Path, **values: object) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, value in values.items():
        (folder / name.replace("__", ".")).write_text(f"{value}\n")
    return folder


def own(tmp_path: Path, text: str) -> Path:
    file = tmp_path / "cgroup"
    file.write_text(text)
    return file


def test_without_a_limit_it_is_the_machines(tmp_path: Path, meminfo: Path) -> None:
    written(tmp_path / "fs" / "a", memory__max="max", memory__high="max", memory__current=1 << 30)
    assert available_bytes(meminfo, tmp_path / "fs", own(tmp_path, "0::/a\n")) == MACHINE
    assert available_bytes(meminfo, tmp_path / "none", tmp_path / "no-such-file") == MACHINE


@pytest.mark.parametrize("which", ["memory__max", "memory__high"])
def test_version_2_takes_the_least_along_the_path(tmp_path: Path, meminfo: Path, which: str) -> None:
    """Less what is used, but not what cached files use that were not read lately."""
    root = tmp_path / "fs"
    written(root / "a", **{which: 3 << 30}, memory__current=2 << 30, memory__stat=f"inactive_file {1 << 29}")
    written(root / "a" / "b", memory__max=5 << 30, memory__current=1 << 30)
    found = available_bytes(meminfo, root, own(tmp_path, "0::/a/b\n"))
    assert found == (1 << 30) + (1 << 29)


def test_version_1_takes_the_least_along_the_path(tmp_path: Path, meminfo: Path) -> None:
    root = tmp_path / "fs"
    unbounded = 9223372036854771712
    written(root / "memory", memory__limit_in_bytes=unbounded, memory__usage_in_bytes=6 << 30)
    written(
        root / "memory" / "docker", memory__limit_in_bytes=2 << 30, memory__usage_in_bytes=1 << 30,
        memory__stat=f"cache 5\ntotal_inactive_file {1 << 28}",
    )  # fmt: skip
    text = "4:cpu,memory:/docker\n3:cpuset:/\n0::/\n"
    assert available_bytes(meminfo, root, own(tmp_path, text)) == (1 << 30) + (1 << 28)


def test_inside_a_container_the_root_has_the_limit(tmp_path: Path, meminfo: Path) -> None:
    root = written(tmp_path / "fs", memory__max=1 << 30, memory__current=2 << 30)
    assert available_bytes(meminfo, root, own(tmp_path, "0::/not/mounted/here\n")) == 0


def test_tables_that_exceed_the_limit_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The check before tables are filled asks for what the cgroup leaves, not for the machine's memory."""
    from deeprecsys.core.errors import InputError
    from deeprecsys.node.runtime import tables

    monkeypatch.setattr("deeprecsys.memory.Path.read_text", _limited(Path.read_text))
    with pytest.raises(InputError, match=r"do not fit in 0\.0 GiB free"):
        tables.load_tables("dlrm-rmc1", 1.0, "fp32", tables.Weights(), lambda _what, _share: None)


def _limited(real):
    def read(self: Path, *args: object) -> str:
        name = str(self)
        if name == "/proc/self/cgroup":
            return "0::/\n"
        values = {
            "memory.max": "1048576",
            "memory.high": "max",
            "memory.current": "1000000",
            "memory.stat": "",
        }
        return values[self.name] if name.startswith("/sys/fs/cgroup/") else real(self, *args)

    return read


def test_a_process_may_have_what_the_machine_has_or_the_least_limit(tmp_path: Path) -> None:
    root, machine = tmp_path / "fs", os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    assert most_bytes(root, own(tmp_path, "0::/a/b\n")) == machine
    written(root / "a", memory__max=3 << 20, memory__current=2 << 20)
    written(root / "a" / "b", memory__max="max", memory__high=5 << 20)
    assert most_bytes(root, own(tmp_path, "0::/a/b\n")) == 3 << 20
