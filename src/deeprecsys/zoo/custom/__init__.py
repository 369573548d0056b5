"""A user's own model, beside the zoo's: a Python class, an ONNX file or a `torch.export` archive.

Importing this package loads neither torch nor the user's code; both happen in processes of their own.
"""

from __future__ import annotations

from deeprecsys.zoo.custom.base import OwnModel
from deeprecsys.zoo.custom.model import Own
from deeprecsys.zoo.custom.prepare import adopt, own_model
from deeprecsys.zoo.custom.spec import is_own

__all__ = ["Own", "OwnModel", "adopt", "is_own", "own_model"]
