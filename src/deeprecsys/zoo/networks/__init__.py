"""The networks in torch: one generic sparse stage, and a dense stage per family."""

from deeprecsys.zoo.networks.layers import initialise

__all__ = ["initialise"]
