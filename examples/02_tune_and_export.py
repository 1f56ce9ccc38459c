"""Tune a base model on one captioned clip and export it to a bundle. Needs the extras training and export.

python examples/02_tune_and_export.py              # on a sample clip: about two minutes on two CPU cores
python examples/02_tune_and_export.py --base sd14 --video clip.mp4 --prompt "a man is skiing"
"""

import argparse
from pathlib import Path

from tav_sdk.export import export_bundle
from tav_sdk.pocket import sample_clip
from tav_sdk.training import InflationOptions, TuneConfig, tune

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--base", default="pocket")
parser.add_argument("--video", default=sample_clip("pig-grass").path)
parser.add_argument("--prompt", default=sample_clip("pig-grass").caption)
parser.add_argument("--frames", type=int, default=8)
parser.add_argument("--size", type=int, help="height and width in pixels; the base's by default")
parser.add_argument("--steps", type=int, help="tuning steps; the base's by default")
parser.add_argument("--preset", default="default", choices=["default", "original"])
parser.add_argument("--out", type=Path, default=Path("tuned"), help="gets a run and a bundle")
args = parser.parse_args()

config = TuneConfig(
    base=args.base,
    video=args.video,
    prompt=args.prompt,
    out=str(args.out / "run"),
    num_frames=args.frames,
    height=args.size,  # None: what the base recommends
    width=args.size,
    num_train_steps=args.steps,
    inflation=InflationOptions(preset=args.preset),
)
run = tune(config, callback=lambda p: print(f"{p.step}/{p.total} loss {p.loss:.4f}"), overwrite=True)
bundle = export_bundle(run, args.out / "bundle", overwrite=True)
print(f"edit with: tav edit {bundle} --video {args.video} --prompt PROMPT --out OUT")
