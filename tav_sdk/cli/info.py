"""``tav info``"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from tav_sdk.errors import InputError
from tav_sdk.pocket import find_base


def info(
    path: Annotated[Path, typer.Argument(help="A bundle, a run, a base model folder (or pocket), or a video.")],
    as_json: Annotated[bool, typer.Option("--json", help="As JSON.")] = False,
) -> None:
    """Say what a bundle, a run, a base model or a video is.

    [bold]Example[/]

      tav info bundles/skiing
    """
    facts = _facts(find_base(path) if not path.exists() else path)
    if as_json:
        typer.echo(json.dumps(facts, indent=2))
        return
    table = Table(show_header=False, box=None, pad_edge=False)
    for key, value in facts.items():
        table.add_row(f"[bold]{key}[/]", escape(str(value)))
    Console(highlight=False, emoji=False).print(table)


def _facts(path: Path) -> dict[str, Any]:
    if not path.exists():
        raise InputError(f"there is nothing at {path}")
    if (path / "manifest.json").is_file():
        return _bundle(path)
    if (path / "run.json").is_file():
        return _run(path)
    if (path / "unet").is_dir() or (path / "model_index.json").is_file():
        return _base(path)
    if path.is_file():
        return _video(path)
    raise InputError(
        f"{path} is neither a bundle (manifest.json), nor a run (run.json), nor a base model (model_index.json)"
    )


def _bundle(path: Path) -> dict[str, Any]:
    from tav_sdk.bundle import Bundle

    manifest = Bundle(path).manifest
    return {
        "kind": "bundle",
        "prompt": manifest.prompt,
        "clip": f"{manifest.num_frames} frames of {manifest.height}x{manifest.width}",
        "precision": manifest.precision,
        "inflation": ", ".join(f"{key} {value}" for key, value in manifest.inflation.items()),
        "base": f"{manifest.provenance['base']['name']} ({manifest.provenance['base']['sha256'][:12]})",
        **{f"graph {name}": f"opset {g.opset}, parity {g.parity_max_abs:.1e}" for name, g in manifest.graphs.items()},
        "size": _megabytes(sum(entry.size for entry in manifest.files.values())),
        "hashes": f"{len(manifest.files)} files as written",
    }


def _run(path: Path) -> dict[str, Any]:
    from tav_sdk.training import load_run

    run = load_run(path)
    config = run.config
    return {
        "kind": "run",
        "prompt": config.prompt,
        "clip": f"{config.num_frames} frames of {config.height}x{config.width}",
        "frames": f"start {config.start}, stride {config.stride}",
        "tuning": f"{config.num_train_steps} steps, learning rate {config.learning_rate:g}, seed {config.seed}",
        "inflation": ", ".join(f"{key} {value}" for key, value in config.inflation.to_dict().items()),
        "base": f"{run.record['base']['name']} ({run.record['base']['sha256'][:12]})",
        "delta": _megabytes(run.delta_path.stat().st_size),
    }


def _base(path: Path) -> dict[str, Any]:
    from tav_sdk.training import BaseModel

    base = BaseModel(path)
    schedule, unet = base.schedule, base.configs["unet"]
    return {
        "kind": "base model",
        "sizes": f"multiples of {base.size_multiple} pixels",
        "trained at": f"{unet.get('sample_size', 0) * base.vae_scale_factor} pixels",
        "U-Net": f"levels {unet['block_out_channels']}, text width {unet['cross_attention_dim']}",
        "VAE": f"factor {base.vae_scale_factor}, scaling {base.scaling_factor:g}",
        "schedule": f"{schedule.beta_schedule}, {schedule.prediction_type}, {schedule.timestep_spacing}",
        "sha256": base.sha256,
    }


def _video(path: Path) -> dict[str, Any]:
    from tav_sdk.video import probe

    found = probe(path)
    return {
        "kind": "video",
        "size": f"{found.height}x{found.width}",
        "frames": found.num_frames,
        "fps": found.fps,
        "codec": found.codec,
    }


def _megabytes(size: int) -> str:
    return f"{size / 1e6:,.1f} MB"
