"""Models of public libraries, exported and served: tables found, scores as the library's module, batch times.

`make compat` runs it in an environment of its own, with deepctr-torch and torch-rechub.
"""

from __future__ import annotations

import importlib.util
import json
import logging
import tempfile
import time
import urllib.request
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import deeprecsys as dr
from benchmarks.harness import Benchmark, Result, Run, Tables, UnavailableError, markdown
from deeprecsys.zoo import model as described
from deeprecsys.zoo.custom import Own

LIBRARIES = {"deepctr-torch": "deepctr_torch", "torch-rechub": "torch_rechub"}
SIZES = (1, 2, 7, 64, 333, 1000)
BATCHES = (1, 64, 256)


def run(run: Run) -> Result:
    missing = [name for name, module in LIBRARIES.items() if importlib.util.find_spec(module) is None]
    if missing:
        raise UnavailableError(f"not installed: {', '.join(missing)}; make compat installs them")
    from benchmarks.lib.library_models import export, library_models

    warnings.filterwarnings("ignore")  # torch.export's and the libraries' own
    logging.getLogger("torch").setLevel(logging.ERROR)
    began, files = time.monotonic(), []
    with tempfile.TemporaryDirectory() as folder:
        for library in LIBRARIES:
            for name, module, example in library_models(library, 6):
                if run.quick and files:
                    continue
                wanted = {n: _scores(library, name, n) for n in SIZES}
                for form in ("onnx", "pt2"):
                    path = Path(folder) / f"{len(files)}.{form}"
                    export(module, example, path)
                    files.append(File(library, name, form, str(path), wanted))
        profiles = [
            dr.profile(f.path, budget=1.0, sizes="fixed:1000", workers=1, progress=False) for f in files
        ]
        names = [str(k) for k in range(len(files))]
        with dr.ServerProcess(
            [f.path for f in files], name=names, profile=[p.latency_profile for p in profiles], batch_size=256,
            sizes="fixed:1000", sla_ms=500.0, workers=1, spares=0, face_test=0.0, max_queue_mb=16,
        ) as server:  # fmt: skip
            found = [
                f.result(p, f"{server.url}/v2/models/{name}/infer")
                for f, p, name in zip(files, profiles, names, strict=True)
            ]
    return {"files": found, "seconds": time.monotonic() - began}


@dataclass
class File:
    """A model in one form, and by number of items what it reads and what it is to score."""

    library: str
    model: str
    form: str
    path: str
    wanted: Mapping[int, tuple[Mapping[str, Any], NDArray[Any]]]

    def result(self, profile: dr.ProfileRun, url: str) -> Result:
        """What was found in the file, its batch times, and how far the server's scores are from those wanted."""
        own = described(self.path)
        assert isinstance(own, Own)
        worst = 0.0
        for items, (x, scores) in self.wanted.items():
            found = _asked(url, own.schema.signature.inputs, x, items)
            worst = max(worst, float(np.abs(found - scores).max() / max(1.0, np.abs(scores).max())))
        times = profile.latency_profile
        return {
            **{k: getattr(self, k) for k in ("library", "model", "form")},
            "tables": len({i.table for i in own.schema.sparse}),
            "left": sum("each worker" in note for note in own.notes),
            "error": worst,
            "ms": [1e3 * times.seconds(b, 1) for b in BATCHES],
        }


def _scores(library: str, name: str, items: int) -> tuple[Mapping[str, Any], NDArray[Any]]:
    """What a library's module gives for so many items, and those.

    One that fails on a single item is given two equal ones.
    """
    import torch

    from benchmarks.lib.library_models import library_models

    module, example = next((m, x) for n, m, x in library_models(library, items) if n == name)
    with torch.inference_mode():
        try:
            found = module(*example)
        except Exception:
            (x,) = example
            twice = {k: torch.cat([v, v]) for k, v in x.items()} if isinstance(x, dict) else torch.cat([x, x])
            found = module(twice)[:items]
    (x,) = example
    return (x if isinstance(x, dict) else {"x": x}), found.reshape(items, -1).numpy()


def _asked(url: str, inputs: Any, x: Mapping[str, Any], items: int) -> NDArray[Any]:
    """The server's scores of a request with the file's own tensors."""
    named = {t.name: x[t.name.removeprefix("x_")] for t in inputs}
    tensors = [
        {"name": t.name, "datatype": t.datatype, "shape": list(named[t.name].shape),
         "data": named[t.name].flatten().tolist()}
        for t in inputs
    ]  # fmt: skip
    body = json.dumps({"inputs": tensors}).encode()
    with urllib.request.urlopen(url, body) as answer:
        outputs = json.load(answer)["outputs"]
    return np.concatenate([np.reshape(o["data"], (items, -1)) for o in outputs], 1)


def tables(result: Result) -> Tables:
    """A row for each file."""
    head = ("library", "model", "file", "tables shared", "tables in each worker", "largest error of a score",
            *(f"batch of {b}, ms" for b in BATCHES))  # fmt: skip
    rows = [
        (f["library"], f["model"], f["form"], f["tables"], f["left"], f"{f['error']:.1e}",
         *(f"{ms:.2f}" for ms in f["ms"]))
        for f in result["files"]
    ]  # fmt: skip
    said = f"{len(rows)} files in {result['seconds']:.0f} s; errors relative to the largest score, at {SIZES} items."
    return {"files-compat": f"{said}\n\n{markdown(head, rows)}"}


BENCHMARK = Benchmark(__file__, __doc__, run, tables)

if __name__ == "__main__":
    BENCHMARK.main()
