"""A user's own model: a Python class, an ONNX file or a `torch.export` archive.

Importing this package loads neither torch nor the user's code; both happen in processes of their own.
"""

from __future__ import annotations

from deeprecsys.zoo.custom.model import Own, OwnModel, is_own, same_model, short_name, with_weights
from deeprecsys.zoo.custom.prepare import own_model, register

__all__ = ["Own", "OwnModel", "is_own", "own_model", "register", "same_model", "short_name", "with_weights"]
