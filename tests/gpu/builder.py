"""What a child process that builds plans runs in these tests: the real thing on a simulated GPU of its own."""

from __future__ import annotations

import sys
from pathlib import Path

from tests.gpu.device import load_simulated_gpu


def main() -> None:
    """The arguments are a pipe that lets it go, the folder of the simulated driver, and the request."""
    with Path(sys.argv[1]).open("rb", 0) as gate:
        gate.read(1)
    gpu = load_simulated_gpu(Path(sys.argv[2]))
    gpu.reset()
    from engines.background import main as build
    from tests.gpu import standin

    standin.device[:] = [gpu]
    for name in ("tensorrt", "tensorrt_rtx"):
        sys.modules[name] = standin
    build()


if __name__ == "__main__":
    main()
