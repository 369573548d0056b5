"""Run benchmarks one after the other, go on after a failure, and say at the end what failed and what was skipped.

python -m benchmarks [--quick] [FAMILY | FAMILY.SCRIPT ...]     all of them by default: hours on two cores
"""

from __future__ import annotations

import argparse
import subprocess
import sys

from benchmarks.harness import ROOT, SKIPPED, scripts


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help="a folder, or FOLDER.SCRIPT; default: all")
    parser.add_argument("--quick", action="store_true", help="see that each works; writes nothing")
    parser.add_argument("--list", action="store_true", help="print their names")
    options = parser.parse_args(argv)
    known = scripts()
    chosen = [s for s in known if not options.names or {s, s.split(".")[0]} & set(options.names)]
    unknown = [n for n in options.names if n not in known and n not in {s.split(".")[0] for s in known}]
    if unknown:
        parser.error(f"expected a folder or a script of benchmarks, got {', '.join(unknown)}")
    if options.list:
        print("\n".join(chosen))
        return 0
    ended: dict[str, list[str]] = {"done": [], "failed": [], "skipped": []}
    for script in chosen:
        print(f"=== {script}", flush=True)
        command = [sys.executable, "-m", f"benchmarks.{script}", *(["--quick"] if options.quick else [])]
        code = subprocess.run(command, cwd=ROOT).returncode
        ended["done" if code == 0 else "skipped" if code == SKIPPED else "failed"].append(script)
    print("\n".join(f"{what}: {', '.join(names) or 'none'}" for what, names in ended.items()))
    return 1 if ended["failed"] else 0


if __name__ == "__main__":
    sys.exit(main())
