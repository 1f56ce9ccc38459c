"""What libx264's options are worth for an mp4: how many different files equal frames give, bytes, PSNR and time.

    python -m benchmarks.encoder --json encoder.json

First every candidate encodes the same clips in turn, interleaved. Then the options before and those in use encode each
clip 100 times, in 10 processes one after the other; the C library fills fresh memory with another byte in each, so that
a read of memory that nobody wrote changes the file (``MALLOC_PERTURB_``, where the C library has it).

Files that differed were seen on a processor with AVX-512 at 64x64 pixels; the result says whether this one has it.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

if __name__ == "__main__" and not __package__:  # run by its path
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np

from benchmarks import interleave, progress, spread, table, write_json
from benchmarks.demo_clip import render_clip
from tav_sdk.video import writer
from tav_sdk.video.clip import Video, read_video

ROOT = Path(__file__).resolve().parents[1]
SIZES = (64, 256, 512)
NUM_FRAMES = 24
PROCESSES = 10
BEFORE, IN_USE = "before", "in use"
_BEFORE = {"crf": "16", "preset": "medium", "threads": "4"}
CANDIDATES: dict[str, dict[str, str]] = {
    BEFORE: _BEFORE,
    "mbtree=0": {**_BEFORE, "x264-params": "mbtree=0"},
    "rc-lookahead=0": {**_BEFORE, "x264-params": "rc-lookahead=0"},
    IN_USE: dict(writer.X264_OPTIONS),
    "in use, one thread": {**writer.X264_OPTIONS, "threads": "1"},
    "in use, frame threads": {**writer.X264_OPTIONS, "thread_type": "frame"},
}


def clip(size: int) -> Video:
    """The rendered clip with a fine grain, since no camera gives even areas; the same in every process."""
    rendered = render_clip(num_frames=NUM_FRAMES, height=size, width=size)
    grain = np.random.default_rng(0).normal(0, 1.5, rendered.frames.shape)
    return Video(frames=(rendered.frames + grain).clip(0, 255).astype(np.uint8), fps=rendered.fps)


def encode(frames: Video, candidate: str, path: Path) -> bytes:
    """The file that the writer makes with a candidate's options."""
    kept = dict(writer.X264_OPTIONS)
    try:
        writer.X264_OPTIONS.clear()
        writer.X264_OPTIONS.update(CANDIDATES[candidate])
        frames.save(path)
    finally:
        writer.X264_OPTIONS.clear()
        writer.X264_OPTIONS.update(kept)
    return path.read_bytes()


def psnr(got: Video, expected: Video) -> float:
    """PSNR of brightness, in dB, over all pixels: colours are stored at half the size whatever the options."""
    weights = np.array([0.299, 0.587, 0.114])
    error = np.mean(((got.frames.astype(np.float64) - expected.frames) @ weights) ** 2)
    return float(10 * np.log10(255**2 / error))


def costs(size: int, rounds: int, folder: Path) -> dict[str, Any]:
    """Bytes, PSNR and seconds of every candidate at one size, and the ratios to those before."""
    frames, path = clip(size), folder / "clip.mp4"
    seconds = interleave({name: lambda name=name: encode(frames, name, path) for name in CANDIDATES}, rounds)
    found = {}
    for name in CANDIDATES:
        size_in_bytes = len(encode(frames, name, path))
        found[name] = {
            "bytes": size_in_bytes,
            "psnr": psnr(read_video(path), frames),
            "seconds": spread(seconds[name]),
        }
    before = found[BEFORE]
    for entry in found.values():
        entry["times_bytes"] = entry["bytes"] / before["bytes"]
        entry["times_seconds"] = entry["seconds"]["median"] / before["seconds"]["median"]
        entry["more_psnr"] = entry["psnr"] - before["psnr"]
    return found


def hashes(size: int, candidate: str, times: int) -> list[str]:
    """SHA-256 of each file, encoded in this process."""
    frames = clip(size)
    with tempfile.TemporaryDirectory() as folder:
        return [hashlib.sha256(encode(frames, candidate, Path(folder, "clip.mp4"))).hexdigest() for _ in range(times)]


def repeated(size: int, candidate: str, times: int) -> dict[str, Any]:
    """How many different files a clip gives, over processes."""
    began, counts = time.perf_counter(), dict[str, int]()
    for process in range(PROCESSES):
        environment = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH")))),
            "MALLOC_PERTURB_": str(process * 255 // PROCESSES),
            "MALLOC_MMAP_THRESHOLD_": str(1 << 30),  # or large blocks would be fresh and zero
        }
        command = [sys.executable, "-m", "benchmarks.encoder", "--stage", candidate]
        command += ["--of-size", str(size), "--times", str(times // PROCESSES)]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, cwd=ROOT, env=environment)
        for one in json.loads(done.stdout):
            counts[one] = counts.get(one, 0) + 1
    progress(f"{size}x{size}, {candidate}: {len(counts)} files, {time.perf_counter() - began:.0f} s")
    return {"encodings": sum(counts.values()), "files": len(counts), "most": max(counts.values())}


def has_avx512() -> bool | None:
    """Whether the processor has AVX-512; ``None`` where nothing says so."""
    known = Path("/proc/cpuinfo")
    return "avx512" in known.read_text(encoding="utf-8") if known.is_file() else None


def run(rounds: int, times: int) -> dict[str, Any]:
    """All candidates' costs, and the files of the options before and in use."""
    with tempfile.TemporaryDirectory() as folder:
        cost = {f"{size}x{size}": costs(size, rounds, Path(folder)) for size in SIZES}
    return {
        "benchmark": "encoder",
        "avx512": has_avx512(),
        "num_frames": NUM_FRAMES,
        "processes": PROCESSES,
        "options": CANDIDATES,
        "costs": cost,
        "files": {
            f"{size}x{size}, {candidate}": repeated(size, candidate, times)
            for size in SIZES
            for candidate in (BEFORE, IN_USE)
        },
    }


def main(arguments: list[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7, metavar="N", help="timed passes of each (default: 7)")
    parser.add_argument("--times", type=int, default=100, metavar="N", help="encodings of a clip (default: 100)")
    parser.add_argument("--json", metavar="FILE", help="also write the result to this file")
    parser.add_argument("--stage", help=argparse.SUPPRESS)  # in the child process
    parser.add_argument("--of-size", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.stage:
        print(json.dumps(hashes(options.of_size, options.stage, options.times)))
        return
    result = run(options.rounds, options.times)
    for size, found in result["costs"].items():
        rows = [
            (
                name,
                str(entry["bytes"]),
                f"{entry['times_bytes']:.2f}",
                f"{entry['psnr']:.2f}",
                f"{1000 * entry['seconds']['median']:.0f}",
                f"{entry['times_seconds']:.2f}",
            )
            for name, entry in found.items()
        ]
        print(table((size, "bytes", "times", "PSNR", "ms", "times"), rows))
    rows = [(name, str(entry["encodings"]), str(entry["files"])) for name, entry in result["files"].items()]
    print(table(("clip and options", "encodings", "different files"), rows))
    write_json(options.json, result, options)


if __name__ == "__main__":
    main()
