"""The zoo: the paper's eight models and, as `<model>-artefact`, what its published artefact builds;
and one whose items have different numbers of ids.

Importing this package does not load torch; `zoo.networks`, which builds the dense stages, does.
"""

from __future__ import annotations

from deeprecsys.core.errors import unknown
from deeprecsys.zoo import dlrm, interest, ncf, wnd
from deeprecsys.zoo.custom import is_own, own_model
from deeprecsys.zoo.model import Model

__all__ = ["MODELS", "Model", "model"]

_PRIMARY: tuple[Model, ...] = (
    dlrm.RMC1,
    dlrm.RMC2,
    dlrm.RMC3,
    ncf.NCF,
    wnd.WND,
    wnd.MT_WND,
    interest.DIN,
    interest.DIEN,
)
_ARTEFACT: tuple[Model, ...] = (
    dlrm.RMC1_ARTEFACT,
    dlrm.RMC2_ARTEFACT,
    dlrm.RMC3_ARTEFACT,
    ncf.NCF_ARTEFACT,
    wnd.WND_ARTEFACT,
    wnd.MT_WND_ARTEFACT,
    interest.DIN_ARTEFACT,
    interest.DIEN_ARTEFACT,
)

_JAGGED: tuple[Model, ...] = (dlrm.RMC1_JAGGED,)

MODELS: dict[str, Model] = {m.name: m for m in _PRIMARY + _ARTEFACT + _JAGGED}
"""All, by name."""


def model(name: str) -> Model:
    """The model of that name, or a user's own where the name is a file's or a class's (`zoo.custom`).

    Raises:
        InputError: there is none; the message names the nearest. An own one cannot be loaded or served.
    """
    if is_own(name):
        return own_model(name)
    if name not in MODELS:
        raise unknown("model", name, MODELS)
    return MODELS[name]
