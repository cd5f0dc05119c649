"""A whole command on a simulated GPU of its own, with a TensorRT whose builds never end by themselves."""

from __future__ import annotations

import sys
from pathlib import Path

from tests.gpu.device import load_simulated_gpu


def main() -> None:
    """The arguments are the folder of the simulated driver, and the command's."""
    gpu = load_simulated_gpu(Path(sys.argv[1]))
    gpu.reset()
    from streamer.cli import main as command
    from tests.gpu import standin

    def build(builder: object, network: object, config: standin.IBuilderConfig) -> None:
        monitor = config.progress_monitor
        assert monitor is not None
        print("building", file=sys.stderr, flush=True)
        monitor.phase_start("Building", None, 1 << 30)
        done = 0
        while monitor.step_complete("Building", done):
            done += 1

    standin.device[:] = [gpu]
    # A build that never ends by itself, in the stand-in's place.
    standin.Builder.build_serialized_network = build  # type: ignore[method-assign, assignment]
    for name in ("tensorrt", "tensorrt_rtx"):
        sys.modules[name] = standin
    sys.argv = ["streamer", *sys.argv[2:]]
    command()


if __name__ == "__main__":
    main()
