"""``tav bench`` on models of several sizes, made for it: a base, a run, its bundle, then the measurement.

    python -m benchmarks.speed --size mid --work FOLDER --json speed-mid.json

``pocket`` is the base in the package; ``mid`` and ``full`` have random weights, beside Stable Diffusion 1.4's own VAE
and text encoder, and ``full`` its U-Net. What is in the folder from an earlier call is used again.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

if __name__ == "__main__" and not __package__:  # run by its path
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks import progress
from benchmarks.models import SIZES, write_base
from tav_sdk.bundle.precision import Precision
from tav_sdk.export import ExportOptions, export_bundle
from tav_sdk.pocket import sample_clips
from tav_sdk.training import TuneConfig, load_run, tune

SIZES_HERE = ("pocket", *SIZES)


def prepare(
    size: str, work: Path, *, precision: Precision = "fp32", num_frames: int | None = None
) -> tuple[Path, Path]:
    """The bundle and the run to measure, made if they are not there."""
    sample = next(iter(sample_clips().values()))
    name = size if num_frames is None else f"{size}-{num_frames}"
    run, bundle = work / f"{name}-run", work / f"{name}-{precision}"
    if not run.exists():
        progress("making the base and the run")
        given: dict[str, Any] = {"num_frames": num_frames} if num_frames else {}
        if size == "pocket":
            base = "pocket"
        else:
            pixels = SIZES[size].pixels
            base = str(work / f"{size}-base")
            given |= {"num_frames": num_frames or SIZES[size].num_frames, "height": pixels, "width": pixels}
            if not Path(base).exists():
                write_base(SIZES[size], Path(base))
        # Two steps: the output of temporal attention is zero before the first.
        tune(
            TuneConfig(
                base=base, video=str(sample.path), prompt=sample.caption, out=str(run), num_train_steps=2, **given
            )
        )
    if not bundle.exists():
        progress("exporting")
        options = ExportOptions(precision=precision, windows=False, parity=size != "full", quality=False)
        export_bundle(load_run(run), bundle, options)
    return bundle, run


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="Further options go to tav bench, which says what they do: --engine, --rounds, --steps, --json, "
        "--overwrite, --against, --slower.",
    )
    parser.add_argument("--size", choices=SIZES_HERE, default="mid")
    parser.add_argument("--work", type=Path, required=True, help="a folder for what is made")
    parser.add_argument("--precision", default="fp32", help="fp32, fp16, bf16 or int8 (default: fp32)")
    parser.add_argument("--frames", type=int, help="default: 8")
    parser.add_argument("--edits", action="store_true", help="also measure whole edits")
    options, rest = parser.parse_known_args(arguments)
    options.work.mkdir(parents=True, exist_ok=True)
    bundle, run = prepare(options.size, options.work, precision=options.precision, num_frames=options.frames)
    video = ["--video", str(next(iter(sample_clips().values())).path)] if options.edits else []
    command = [sys.executable, "-m", "tav_sdk.cli", "bench", str(bundle), "--run", str(run), *video, *rest]
    sys.exit(subprocess.run(command, check=False).returncode)


if __name__ == "__main__":
    main()
