"""Edit a clip by text with a tuned bundle: the whole SDK in five lines. Needs no PyTorch.

After `make demo`:

    python examples/01_edit_a_video.py
    python examples/01_edit_a_video.py --bundle bundles/skiing --video clip.mp4 --prompt "a panda is skiing"
"""

import argparse

import tav_sdk

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--bundle", default="demo/bundle")
parser.add_argument("--video", default="demo/clip.mp4")
parser.add_argument("--prompt", default="a yellow car is moving on the road")
parser.add_argument("--steps", type=int, help="DDIM steps of inversion and of sampling; the base's by default")
parser.add_argument("--out", default="edited.mp4", help="ends in .mp4, .gif, .webp, or .png for a contact sheet")
args = parser.parse_args()

pipeline = tav_sdk.load(args.bundle)
shape = pipeline.manifest
clip = tav_sdk.read_video(args.video, num_frames=shape.num_frames, size=(shape.height, shape.width))
inversion = pipeline.invert(clip, num_inversion_steps=args.steps)
video = pipeline.edit(args.prompt, inversion, num_inference_steps=args.steps)
print(f"written: {video.save(args.out)}")
