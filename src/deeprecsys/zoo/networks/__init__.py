"""The networks in torch: one generic sparse stage, and a dense stage per family."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import nn

from deeprecsys.zoo.custom.model import Own
from deeprecsys.zoo.custom.stage import custom_stage
from deeprecsys.zoo.custom.weights import load_all
from deeprecsys.zoo.dlrm import Dlrm
from deeprecsys.zoo.interest import Dien, DienArtefact, Din, DinArtefact
from deeprecsys.zoo.model import Model
from deeprecsys.zoo.ncf import Ncf, NcfArtefact
from deeprecsys.zoo.networks.dlrm import DlrmDense
from deeprecsys.zoo.networks.interest import DienArtefactDense, DienDense, DinArtefactDense, DinDense
from deeprecsys.zoo.networks.layers import initialise
from deeprecsys.zoo.networks.ncf import NcfArtefactDense, NcfDense
from deeprecsys.zoo.networks.wnd import MtWndArtefactDense, MtWndDense, WndDense
from deeprecsys.zoo.tensor_file import TensorFile
from deeprecsys.zoo.wnd import MtWnd, MtWndArtefact, Wnd

__all__ = ["dense_stage", "initialise", "weighted"]

_STAGES: dict[type[Any], Callable[[Any], nn.Module]] = {
    Dlrm: DlrmDense,
    Wnd: WndDense,
    MtWnd: MtWndDense,
    MtWndArtefact: MtWndArtefactDense,
    Ncf: NcfDense,
    NcfArtefact: NcfArtefactDense,
    Din: DinDense,
    DinArtefact: DinArtefactDense,
    Dien: DienDense,
    DienArtefact: DienArtefactDense,
    Own: custom_stage,
}
"""Configuration -> what builds its dense stage."""


def dense_stage(model: Model) -> nn.Module:
    """A new dense stage; of the zoo its weights are still to be drawn by `initialise`."""
    return _STAGES[type(model)](model).eval()


def weighted(model: Model, seed: int, dense: TensorFile | None = None) -> nn.Module:
    """A model's dense stage with its weights: drawn from `seed`, or its own where a user brought them.

    Args:
        dense: takes the place of both: the tensors of its state dict, and no others.

    Raises:
        InputError: they are not the dense stage's.
    """
    if isinstance(model, Own):
        return custom_stage(model, dense).eval().requires_grad_(False)
    network = dense_stage(model)
    if dense:
        load_all(network, dense)
    else:
        initialise(network, seed)
    return network.requires_grad_(False)
