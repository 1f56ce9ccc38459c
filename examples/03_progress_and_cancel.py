"""Follow an edit step by step, and stop it half-way. Needs no PyTorch.

Every call takes a callback; it is told of each step, and cancels when it returns False. Nothing is written then.

After `make demo`:

    python examples/03_progress_and_cancel.py --seconds 2       # stops half-way and writes nothing
    python examples/03_progress_and_cancel.py --seconds 600     # goes on to the end
"""

import argparse
import time

import tav_sdk

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--bundle", default="demo/bundle")
parser.add_argument("--prompt", default="a blue car is moving at night")
parser.add_argument("--steps", type=int, help="DDIM steps; the base's by default")
parser.add_argument("--seconds", type=float, default=5.0, help="patience")
parser.add_argument("--out", default="generated.gif")
args = parser.parse_args()

deadline = time.monotonic() + args.seconds


def callback(progress: tav_sdk.StepProgress) -> bool:
    """Print where it is, and go on until the time is up."""
    print(f"{progress.stage} {progress.step}/{progress.total}")
    return time.monotonic() < deadline


with tav_sdk.load(args.bundle) as pipeline:
    try:
        video = pipeline.generate(args.prompt, seed=7, num_inference_steps=args.steps, callback=callback)
        print(f"written: {video.save(args.out)}")
    except tav_sdk.CancelledError as cancelled:
        print(f"stopped: {cancelled}")
