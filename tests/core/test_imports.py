"""The core stays light."""

from __future__ import annotations

import subprocess
import sys


def test_the_core_loads_neither_torch_nor_numba():
    code = (
        "import pkgutil, importlib, sys, deeprecsys.core as c\n"
        "for m in pkgutil.iter_modules(c.__path__): importlib.import_module('deeprecsys.core.' + m.name)\n"
        "heavy = {'torch', 'numba', 'scipy', 'click', 'tqdm'} & set(sys.modules)\n"
        "sys.exit(f'loaded {heavy}' if heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
