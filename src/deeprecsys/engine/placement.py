"""Which device of its kind an engine is to use: in its arguments, so that every worker is told its own."""

from __future__ import annotations

from typing import NamedTuple

from deeprecsys.core.errors import InputError

CUDA = "cuda"
DEVICE = "device="
COMPILE = "compile"


class CudaOptions(NamedTuple):
    """What stands behind `cuda:`.

    Attributes:
        precision: None for the assembly's.
        compiled: whether torch compiles the dense stage.
        device: number of the GPU, of those that the process sees.
    """

    precision: str | None = None
    compiled: bool = False
    device: int = 0


def cuda_options(args: str) -> CudaOptions:
    """The options in `[PRECISION][,compile][,device=N]`.

    Raises:
        InputError: anything else.
    """
    found = CudaOptions()
    for place, word in enumerate(w for w in args.split(",") if w):
        number = word.removeprefix(DEVICE)
        if word == COMPILE:
            found = found._replace(compiled=True)
        elif word.startswith(DEVICE) and number.isdecimal():
            found = found._replace(device=int(number))
        elif place == 0 and "=" not in word:
            found = found._replace(precision=word)
        else:
            raise InputError(f"engine cuda: expected [PRECISION][,compile][,device=N], got {args!r}")
    return found


def one_each(engine: str, count: int) -> tuple[str, ...]:
    """The engines of `count` accelerators of one kind: each real one gets a GPU of its own.

    Raises:
        InputError: several are to be the one GPU that the engine names.
    """
    head, _, args = engine.partition(":")
    if head != CUDA or count == 1:
        return (engine,) * count
    if DEVICE in args:
        raise InputError(f"gpus: expected 1 where the engine names its device, got {count} of {engine}")
    return tuple(f"{CUDA}:{','.join(filter(None, (args, f'{DEVICE}{i}')))}" for i in range(count))
