"""Size distributions from outside the package: a file, a module, an installed entry point."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from deeprecsys.core.errors import InputError
from deeprecsys.plugins import installed
from deeprecsys.workload.sizes import GROUP, parse
from deeprecsys.workload.stream import Workload

SOURCE = """
import numpy as np
from deeprecsys.workload.sizes import Discrete


def two_sizes(args):
    small, large = (int(a) for a in args or ("10", "500"))
    cdf = np.zeros(large)
    cdf[small - 1 : large - 1] = 0.5
    cdf[large - 1] = 1.0
    return Discrete(f"two:{small},{large}", cdf)


def nothing(args):
    return 5
"""


def test_a_distribution_in_a_file_and_in_a_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "Two_sizes.py").write_text(SOURCE)
    for where in (f"{tmp_path}/Two_sizes.py", "Two_sizes"):
        stream = Workload.parse(sizes=f"{where}:two_sizes:3,70").stream(10.0, queries=200)
        assert set(np.unique(stream.size)) == {3, 70}
        assert parse(f"{where}:two_sizes").cap == 500
        monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(
        InputError, match=r"size distribution .*: expected attributes spec, cap, of, describe"
    ):
        parse(f"{tmp_path}/Two_sizes.py:nothing")
    with pytest.raises(InputError, match="expected an importable module:attribute"):
        parse(f"{tmp_path}/Two_sizes.py:three")


def test_an_installed_distribution(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "installed_sizes.py").write_text(SOURCE)
    about = tmp_path / "sizes-1.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: sizes\nVersion: 1\n")
    (about / "entry_points.txt").write_text(f"[{GROUP}]\ntwo = installed_sizes:two_sizes\n")
    monkeypatch.syspath_prepend(tmp_path)
    installed.cache_clear()
    try:
        assert parse("two").cap == 500
        assert parse("two:1,9").cap == 9
        with pytest.raises(InputError, match="unknown size distribution 'twoo': did you mean 'two'"):
            parse("twoo")
    finally:
        installed.cache_clear()
