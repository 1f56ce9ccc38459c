"""Tune a base model on one captioned clip and export it to a bundle. Needs the extras training and export.

After `make demo`:

    python examples/02_tune_and_export.py
    python examples/02_tune_and_export.py --base sd14 --video clip.mp4 --prompt "a man is skiing" --size 512 --steps 300
"""

import argparse
from pathlib import Path

from tav_sdk.export import export_bundle
from tav_sdk.training import InflationOptions, TuneConfig, tune

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--base", default="demo/base")
parser.add_argument("--video", default="demo/clip.mp4")
parser.add_argument("--prompt", default="a red square is moving over the meadow")
parser.add_argument("--frames", type=int, default=8)
parser.add_argument("--size", type=int, default=128, help="height and width in pixels")
parser.add_argument("--steps", type=int, default=20, help="tuning steps")
parser.add_argument("--preset", default="default", choices=["default", "original"])
parser.add_argument("--out", type=Path, default=Path("tuned"), help="gets a run and a bundle")
args = parser.parse_args()

config = TuneConfig(
    base=args.base,
    video=args.video,
    prompt=args.prompt,
    out=str(args.out / "run"),
    num_frames=args.frames,
    height=args.size,
    width=args.size,
    num_train_steps=args.steps,
    inflation=InflationOptions(preset=args.preset),
)
run = tune(config, callback=lambda p: print(f"{p.step}/{p.total} loss {p.metrics['loss']:.4f}"), overwrite=True)
bundle = export_bundle(run, args.out / "bundle", overwrite=True)
print(f"edit with: tav edit {bundle} --video {args.video} --prompt PROMPT --out OUT")
