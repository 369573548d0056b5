"""The accelerator's engine: staging, one gather over all tables, dense stage in a graph per bucket."""

from deeprecsys.engine.cuda.engine import CudaEngine, DeviceEngine

__all__ = ["CudaEngine", "DeviceEngine"]
