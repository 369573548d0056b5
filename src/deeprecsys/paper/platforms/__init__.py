"""Platforms: machines described by constants with sources, as latency profiles that say they are modelled."""

from deeprecsys.paper.platforms.accelerator import gtx_1080_ti, gtx_roofline
from deeprecsys.paper.platforms.anchored import Anchor
from deeprecsys.paper.platforms.anchors import caffe2, eager
from deeprecsys.paper.platforms.cpu import CpuSpec, batch_time, modelled
from deeprecsys.paper.platforms.known import BROADWELL, EPYC_7003, SKYLAKE
from deeprecsys.paper.platforms.power import GTX_NODE, NodePower
from deeprecsys.paper.platforms.scaled import EPYC_64, scaled
from deeprecsys.paper.platforms.work import Work, work_of

__all__ = [
    "BROADWELL", "EPYC_64", "EPYC_7003", "GTX_NODE", "SKYLAKE", "Anchor", "CpuSpec", "NodePower", "Work",
    "batch_time", "caffe2", "eager", "gtx_1080_ti", "gtx_roofline", "modelled", "scaled", "work_of",
]  # fmt: skip
