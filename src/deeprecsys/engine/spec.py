"""How an engine is named: `NAME[:ARGS]` of a built-in or installed one, or a class of the user's own."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache

from deeprecsys.core.errors import InputError, unknown
from deeprecsys.plugins import installed

BUILT_IN = {
    "compiled": "deeprecsys.engine.compiled:CompiledEngine",
    "cuda": "deeprecsys.engine.cuda:CudaEngine",
    "eager": "deeprecsys.engine.eager:EagerEngine",
    "emulated": "deeprecsys.engine.emulated:EmulatedEngine",
    "null": "deeprecsys.engine.null:NullEngine",
    "wait": "deeprecsys.engine.null:WaitEngine",
}
"""Engine name -> `module:attribute` of its factory, a callable from an `Assembly` (and its arguments)."""
GROUP = "deeprecsys.engines"
"""Entry points of installed engines."""

FASTEST = "compiled"
"""The engine of whatever names none."""
PRECISIONS = ("fp32", "bf16", "int8")
"""The most exact first."""
_COMPUTES_IN = {"eager": ("fp32",)}
"""Precisions of an engine that does not compute in all."""
CUDA = "cuda"
COMPILE = "compile"
_DEVICE = "device="


@dataclass(frozen=True, slots=True)
class EngineSpec:
    """An engine's text, taken apart once.

    Attributes:
        name: of a built-in or installed engine; `module:attribute` or `FILE.py:Class` of another.
        args: what follows the name's colon, without `device=N`; "" for none.
        device: number of the GPU, of those that the process sees; None where the text names none.
    """

    name: str
    args: str = ""
    device: int | None = None

    @staticmethod
    @cache
    def parse(text: str) -> EngineSpec:
        """The engine that a text names; nothing is imported.

        Raises:
            InputError: neither a known engine nor a `module:attribute`, or arguments that cuda does not take.
        """
        name, colon, args = text.partition(":")
        if name not in BUILT_IN and name not in installed(GROUP):
            if not colon:
                raise unknown("engine", text, (*BUILT_IN, *installed(GROUP)))
            return EngineSpec(text)
        return _cuda(args) if name == CUDA else EngineSpec(name, args)

    @classmethod
    def recorded(cls, text: str) -> EngineSpec:
        """The engine that a result names; one that is not installed here is taken as it is."""
        try:
            return cls.parse(text)
        except InputError:
            return cls(text)

    def __str__(self) -> str:
        """The text that `parse` takes apart to this."""
        device = () if self.device is None else (f"{_DEVICE}{self.device}",)
        args = ",".join(filter(None, (self.args, *device)))
        return f"{self.name}:{args}" if args else self.name

    @property
    def precisions(self) -> tuple[str, ...]:
        """What it computes in, the most exact first."""
        return _COMPUTES_IN.get(self.name, PRECISIONS)

    @property
    def user_stage(self) -> bool:
        """It can run a query's user stage by itself (`SliceView.user`)."""
        return self.name == "compiled" and self.args in ("", "onnxruntime")

    @property
    def emulated(self) -> bool:
        """It replays batch times of a profile, the argument, and scores nothing."""
        return self.name == "emulated"

    @property
    def scores(self) -> bool:
        """It computes scores."""
        return self.name not in ("emulated", "null", "wait")

    @property
    def on_gpu(self) -> bool:
        """It uses a CUDA device of the machine."""
        return self.name == CUDA

    def require(self, precision: str) -> EngineSpec:
        """This engine; InputError if it does not compute in the precision."""
        if precision not in self.precisions:
            able = " or ".join(self.precisions)
            raise InputError(f"precision of engine {self.name}: expected {able}, got {precision}")
        return self

    def replicas(self, count: int) -> tuple[EngineSpec, ...]:
        """The engines of `count` workers, each with a GPU of its own; InputError if the text names one."""
        if not self.on_gpu or count == 1:
            return (self,) * count
        if self.device is not None:
            raise InputError(f"gpus: expected 1 where the engine names its device, got {count} of {self}")
        return tuple(replace(self, device=i) for i in range(count))


def _cuda(args: str) -> EngineSpec:
    words = [w for w in args.split(",") if w]
    numbers = [w.removeprefix(_DEVICE) for w in words if w.startswith(_DEVICE)]
    rest = [w for w in words if not w.startswith(_DEVICE)]
    odd = [w for w in rest[1:] if w != COMPILE] + [w for w in rest[:1] if "=" in w]
    if odd or len(numbers) > 1 or not all(n.isdecimal() for n in numbers):
        raise InputError(f"engine cuda: expected [PRECISION][,compile][,device=N], got {args!r}")
    return EngineSpec(CUDA, ",".join(rest), int(numbers[0]) if numbers else None)
