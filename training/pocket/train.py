"""Train Pocket: ``python -m tav_sdk.training.pocket.train --setting small --out DIR``.

Kill it and start it again at will: it goes on where it was.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from tav_sdk.errors import ConfigError, MissingExtraError, TavError

STAGES = ("clip", "vae", "unet", "finish", "decoder", "controlnet", "export")


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="tav_sdk.training.pocket.train", description=__doc__)
    parser.add_argument("--setting", default="small", help="small (CPU) or large (one data-centre GPU)")
    parser.add_argument("--out", type=Path, required=True, help="folder of the training state; an old one is resumed")
    parser.add_argument("--stage", choices=("all", *STAGES), default="all")
    parser.add_argument("--steps", type=int, help="unet, controlnet: train up to this step; finish: decay over so many")
    parser.add_argument("--export", type=Path, metavar="FOLDER", help="export: where to (default: OUT/pocket)")
    parser.add_argument("--threads", type=int, help="CPU threads (default: what is found to be fastest)")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit code."""
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # threads that spin starve every other job
    options = parse(arguments)
    try:
        run(options)
    except TavError as error:
        sys.stderr.write(f"error: {error}\n")
        return error.exit_code
    return 0


def run(options: argparse.Namespace) -> None:
    """Run the stages that are asked for."""
    try:
        import torch
        from diffusers import AutoencoderKL  # noqa: F401
    except ImportError as error:
        raise MissingExtraError("Training Pocket", "pocket", error.name or "torch") from error
    from tav_sdk.training.pocket.autoencoder import train_autoencoder, train_decoder
    from tav_sdk.training.pocket.clip_model import train_clip
    from tav_sdk.training.pocket.config import find_setting
    from tav_sdk.training.pocket.controlnet import train_controlnet
    from tav_sdk.training.pocket.export import export_pocket
    from tav_sdk.training.pocket.loop import ThreadChoice
    from tav_sdk.training.pocket.unet import train_unet

    setting, out = find_setting(options.setting), options.out
    if setting.device == "cuda" and not torch.cuda.is_available():
        raise ConfigError(f"The setting '{setting.name}' needs a CUDA device and there is none; use the setting small.")
    if options.threads:
        torch.set_num_threads(options.threads)
    cores = torch.get_num_threads()
    threads = ThreadChoice((1, cores)) if setting.device == "cpu" and not options.threads and cores > 1 else None
    if options.steps and options.stage == "finish":
        setting = replace(setting, finish_steps=options.steps)
    elif options.steps and options.stage == "controlnet":
        setting = replace(setting, control_steps=options.steps)
    elif options.steps:
        setting = replace(setting, unet_steps=options.steps)
    stages: dict[str, Callable[[], object]] = {
        "clip": lambda: train_clip(setting, out, threads=threads),
        "vae": lambda: train_autoencoder(setting, out, threads=threads),
        "unet": lambda: train_unet(setting, out, threads=threads),
        "finish": lambda: train_unet(setting, out, finish=setting.finish_steps, threads=threads),
        "decoder": lambda: train_decoder(setting, out, threads=threads),
        "controlnet": lambda: train_controlnet(setting, out, threads=threads),
        "export": lambda: export_pocket(setting, out, options.export or out / "pocket"),
    }
    for name in STAGES if options.stage == "all" else (options.stage,):
        stages[name]()


if __name__ == "__main__":
    sys.exit(main())
