"""VMAF through the FFmpeg that the vmaf extra brings along (imageio-ffmpeg, whose build has libvmaf)."""

from __future__ import annotations

import json
import os
import re
import subprocess
import tempfile
from pathlib import Path

from streamer.child import NoFFmpeg, ffmpeg

MODELS = {"vmaf": "vmaf_v0.6.1", "vmaf_neg": "vmaf_v0.6.1neg"}
"""Name of the score: libvmaf's model. NEG gives no credit for sharpening and contrast ("no enhancement gain")."""


_ADDRESS = re.compile(r"^\[[^\]]*\] ")


class VmafError(Exception):
    """VMAF can't be measured here; the message says why and what to do."""


def measure_vmaf(reference: str, distorted: str, *, frames: int, pix_fmt: str) -> dict[str, float]:
    """The mean over the first `frames` frames of every model of MODELS, 0 to 100; higher is closer to the reference.

    Frames are paired by number: their times are replaced by it. Both are read as `pix_fmt`, that of the reference, and
    as stored, not rotated; interlaced pictures are deinterlaced as the sources do. Raises VmafError without the
    extra or if FFmpeg fails.
    """
    try:
        program = ffmpeg("vmaf")
    except NoFFmpeg as error:
        raise VmafError(str(error)) from None
    with tempfile.TemporaryDirectory(prefix="streamer-vmaf-") as folder:
        command = [program, "-nostdin", "-v", "error"]
        for name in (distorted, reference):  # libvmaf's order
            command += ["-noautorotate", "-i", str(Path(name).absolute())]
        command += ["-filter_complex", _filters(frames, pix_fmt), "-fps_mode", "passthrough", "-f", "null", "-"]
        # The log's name needs no escaping because it lies in the working folder.
        run = subprocess.run(command, cwd=folder, capture_output=True, text=True, errors="replace", check=False)
        if run.returncode:
            said = run.stderr.strip().splitlines() or [f"exit code {run.returncode}"]
            raise VmafError(f"FFmpeg failed: {_ADDRESS.sub('', said[0])}")
        result = json.loads((Path(folder) / "vmaf.json").read_text(encoding="utf-8"))
    if len(result["frames"]) != frames:
        raise VmafError(f"FFmpeg found {len(result['frames'])} pairs of frames instead of {frames}")
    return {name: float(result["pooled_metrics"][name]["mean"]) for name in MODELS}


def _filters(frames: int, pix_fmt: str) -> str:
    # FFmpeg compares times in seconds: both inputs need one unit and the frame's number as their time.
    each = f"bwdif=mode=send_frame:deint=interlaced,settb=1/25,setpts=N,trim=end_frame={frames},format={pix_fmt}"
    models = "|".join(rf"version={model}\:name={name}" for name, model in MODELS.items())
    threads = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return (
        f"[0:v:0]{each}[distorted];[1:v:0]{each}[reference];[distorted][reference]"
        f"libvmaf=model='{models}':n_threads={threads}:log_fmt=json:log_path=vmaf.json"
    )
