"""The wheel, built and installed into fresh environments outside the repository, and what works there.

The core: `models`, `simulate`, `bench --url` of a server that is not there. Everything: the README's two commands, the
first with few rows and a short budget, the second until it is ready. Time and size of each installation are kept. pip's own settings say
where packages come from; `--torch-index URL` is an index of PyTorch's CPU builds.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

from benchmarks.harness import ROOT, Benchmark, Result, Run, Tables, markdown, measured_on

PROFILE = ROOT / "profiles" / "amd-25-1-avx2" / "wnd.json"
CORE = (
    ("models",),
    ("simulate", "--profile", str(PROFILE), "--sla-ms", "25", "--rate", "50", "--queries", "2000"),
)
WHOLE = ("tune", "wnd", "--sla-ms", "25", "--rows-scale", "0.01", "--budget", "2", "--out", "run")


def wheel(folder: Path) -> Path:
    """Build the wheel from this source tree into a folder."""
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation"]
    subprocess.run([*command, "--wheel-dir", str(folder), str(ROOT)], check=True)
    (found,) = folder.glob("*.whl")
    return found


def installed(folder: Path, asked: str, before: tuple[str, ...] = ()) -> tuple[Path, Result]:
    """A fresh environment with a requirement, and what the installation took.

    Args:
        before: arguments of a first `pip install`.

    Returns:
        The folder of its programs, and seconds and megabytes.
    """
    subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
    pip = [str(folder / "bin" / "python"), "-m", "pip", "--disable-pip-version-check", "install", "--quiet"]
    began = time.monotonic()
    for arguments in filter(None, (before, (asked,))):
        subprocess.run([*pip, "--no-compile", *arguments], check=True, env=outside())
    took = time.monotonic() - began
    packages = next((folder / "lib").glob("python*/site-packages"))
    size = sum(f.stat().st_size for f in packages.rglob("*") if f.is_file() and not f.is_symlink())
    return folder / "bin", {"seconds": took, "megabytes": size / 1e6}


def outside() -> dict[str, str]:
    """The environment without what leads back into the repository."""
    return {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "VIRTUAL_ENV")}


def works(programs: Path, arguments: tuple[str, ...], folder: Path, status: int = 0) -> float:
    """Seconds that a command takes; it must end with a status."""
    began = time.monotonic()
    done = subprocess.run(
        [str(programs / "deeprecsys"), *arguments], cwd=folder, env=outside(), capture_output=True, text=True
    )
    if done.returncode != status or "Traceback" in done.stderr:
        raise SystemExit(
            f"deeprecsys {' '.join(arguments)}: expected status {status}, got {done.returncode}: {done.stderr}"
        )
    return time.monotonic() - began


def serves(programs: Path, folder: Path) -> float:
    """Seconds until `serve --from run` is ready; it is then ended, and must end with 0."""
    began = time.monotonic()
    command = [
        str(programs / "deeprecsys"),
        "serve",
        "--from",
        "run",
        "--http-port",
        "18000",
        "--grpc-port",
        "18001",
    ]
    with subprocess.Popen(command, cwd=folder, env=outside()) as server:
        try:
            while server.poll() is None:
                try:
                    with urllib.request.urlopen("http://127.0.0.1:18000/v2/health/ready", timeout=2):
                        break
                except OSError:
                    time.sleep(0.2)
            took = time.monotonic() - began
            server.send_signal(signal.SIGTERM)
            if server.wait(60):
                raise SystemExit(
                    f"deeprecsys serve: expected status 0 after SIGTERM, got {server.returncode}"
                )
        finally:
            server.kill()
    return took


def run(run: Run) -> Result:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        built = wheel(folder)
        found: Result = {"wheel_kb": built.stat().st_size / 1e3, "python": sys.version.split()[0]}
        if run.quick:
            return found
        programs, core = installed(folder / "core", str(built))
        core["commands_s"] = [works(programs, arguments, folder) for arguments in CORE]
        works(programs, ("bench", "wnd", "--url", "http://127.0.0.1:9", "--rate", "10"), folder, status=1)
        index = run.options.torch_index
        torch = ("torch>=2.13,<2.14", "--index-url", index) if index else ()
        programs, whole = installed(folder / "whole", f"{built}[serve]", torch)
        whole["commands_s"] = [works(programs, WHOLE, folder), serves(programs, folder)]
        return {**found, "core": core, "whole": whole}


def tables(result: Result) -> Tables:
    if "core" not in result:
        return {"docs/install.md#installs": ""}
    rows = [
        (what, f"{result[key]['megabytes']:.0f}", f"{result[key]['seconds']:.0f}", commands)
        for key, what, commands in (
            ("core", "no extra", "`models`, `simulate`, `bench --url`"),
            ("whole", "`serve`", "`tune`, `serve --from`"),
        )
    ]
    table = markdown(("installed", "MB", "seconds", "commands run there"), rows)
    where = f"{measured_on(result['machine'])}, Python {result['python']}, other work on the machine; `python -m benchmarks.install.wheel`."
    return {"docs/install.md#installs": f"{table}\n\n{where}"}


BENCHMARK = Benchmark(
    __file__,
    __doc__,
    run,
    tables,
    options={"--torch-index": {"metavar": "URL", "help": "PyTorch's CPU builds"}},
)

if __name__ == "__main__":
    BENCHMARK.main()
