"""`--gpu`: the second device that an option names, and its profile where it is an emulated one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from deeprecsys.core.errors import InputError, unknown
from deeprecsys.core.profile import LatencyProfile
from deeprecsys.engine import EngineSpec
from deeprecsys.engine.emulated import read
from deeprecsys.simulate.published import DEVICES, device, device_profile


def check_gpu(text: str | None) -> None:
    """Raise InputError unless `--gpu` names an engine, and what it emulates is there."""
    if text is None:
        return
    engine = EngineSpec.parse(text)
    if engine.emulated and not published(text):
        if "/" not in engine.args and not engine.args.endswith(".json") and not Path(engine.args).exists():
            raise unknown("device to emulate", engine.args, DEVICES)
        read(engine.args)


def published(text: str | None) -> str | None:
    """The published device that `--gpu` names, if it names one: it needs a CPU's profile."""
    engine = EngineSpec.parse(text) if text else None
    return engine.args if engine and engine.emulated and engine.args in DEVICES else None


def emulated_profile(text: str | None, cpu: LatencyProfile | None = None) -> LatencyProfile | None:
    """The profile of which `--gpu emulated:…` replays batch times; None for another engine.

    Args:
        cpu: batch times of the model on the CPU; only a published device needs them.
    """
    engine = EngineSpec.parse(text) if text else None
    if engine is None or not engine.emulated:
        return None
    name = published(text)
    if name is None:
        return read(engine.args)
    if cpu is None:
        raise InputError(f"--gpu {text}: expected a profile of the CPU to go by, got none")
    return device_profile(cpu, device(name))


def engine_of(text: str, profile: LatencyProfile | None, folder: Path) -> str:
    """The engine of the accelerator's workers: a published device's profile is put into a file for them."""
    if profile is None or not published(text):
        return text
    file = folder / f"{published(text)}-{profile.model}.json"
    file.write_text(json.dumps(profile.to_json()))
    return str(EngineSpec("emulated", str(file)))


def gpu_document(text: str | None, workers: int, profile: LatencyProfile | None) -> dict[str, Any]:
    """What every result with an accelerator states of it; empty where there is none."""
    if text is None:
        return {}
    engine = EngineSpec.parse(text)
    about = dict(profile.machine) if profile else {}
    name = about.get("gpu") or text.removeprefix(engine.name).lstrip(":")
    found = {"engine": text, "workers": workers, "emulated": engine.emulated, "device": name or None}
    if profile:
        found["profile"] = profile.to_json()
    return {"gpu": found, "emulated": engine.emulated}
