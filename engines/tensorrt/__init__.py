"""Networks on NVIDIA GPUs: TensorRT and TensorRT for RTX, through pycuda.

Importing it loads neither; an engine loads its library when it is opened. Verified on a simulated GPU (tests/gpu) and
by real builds without one: nothing here has ever run on a real GPU.
"""

from .build import BuildSettings, Progress
from .cache import PlanCache, PlanEntry
from .diagnose import diagnose_gpu
from .driver import DriverError, find_driver
from .fp16 import to_fp16
from .overflow import half_precision, overflowing
from .profile import Profile
from .run import TensorRTEngine, TensorRTRTXEngine
from .symptoms import explain
from .vendor import TENSORRT, TENSORRT_RTX, Backend

__all__ = [
    "TENSORRT",
    "TENSORRT_RTX",
    "Backend",
    "BuildSettings",
    "DriverError",
    "PlanCache",
    "PlanEntry",
    "Profile",
    "Progress",
    "TensorRTEngine",
    "TensorRTRTXEngine",
    "diagnose_gpu",
    "explain",
    "find_driver",
    "half_precision",
    "overflowing",
    "to_fp16",
]
