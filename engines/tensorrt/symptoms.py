"""Known symptoms of CUDA, TensorRT, pycuda and NVENC: what they mean, and what to do."""

from __future__ import annotations

import re

SYMPTOMS = (
    (
        r"libcuda\.so\.1.*(No such file|cannot open)|nvcuda\.dll|dlopen libcuda",
        "there is no NVIDIA driver: install it (580 or newer for CUDA 13 packages, 535 or newer for CUDA 12)",
    ),
    (r"no CUDA-capable device", "there is a driver but no GPU that it can use: check nvidia-smi and the container"),
    (r"stub library", "libcuda.so.1 is the CUDA toolkit's stub: take its folder out of LD_LIBRARY_PATH"),
    (
        r"cudaError 35|error:? 35|driver version is insufficient",
        "the driver is older than the CUDA that TensorRT was made for: update the driver, or install the cu12 package",
    ),
    (
        r"factory function returned nullptr",
        "TensorRT does not start; its log says why: usually the driver is too old, or the GPU older than Turing",
    ),
    (
        r"lib(nvinfer|nvonnxparser|tensorrt)\w*\.so",
        "TensorRT's bindings are installed without its libraries: pip install --force-reinstall tensorrt",
    ),
    (r"only a stub for type checkers|no attribute 'Builder'", "only tensorrt-stubs is installed: uninstall it"),
    (r"does not load the plan|deserialize", "the plan is for another version or GPU: run streamer engines clear"),
    (
        r"avcodec_open2\(.*nvenc|NVENC",
        "NVENC cannot be used: no driver or GPU, too many sessions, or a driver older than FFmpeg's headers",
    ),
)
"""A pattern in what a library says, and what it means. The first that fits counts."""


def explain(said: str) -> str:
    """What a message of CUDA, TensorRT, pycuda or NVENC means and what to do; empty if it is not a known one."""
    return next((meaning for pattern, meaning in SYMPTOMS if re.search(pattern, said, re.IGNORECASE)), "")
