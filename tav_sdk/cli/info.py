"""``tav info``"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from tav_sdk.cli.base_options import PredictionType, Revision, TokenizerFolder
from tav_sdk.errors import InputError
from tav_sdk.pocket import find_base
from tav_sdk.training.hub import is_hub_id
from tav_sdk.training.run_folder import RECORD, STARTED, partial_folder

CHECKPOINTS = (".safetensors", ".ckpt")
"""Suffixes of single-file base models."""


def info(
    path: Annotated[
        Path,
        typer.Argument(help="A bundle, run, base model (pocket, or a Hugging Face id), folder of edits, or video."),
    ],
    tokenizer: TokenizerFolder = None,
    prediction_type: PredictionType = None,
    revision: Revision = None,
    as_json: Annotated[bool, typer.Option("--json", help="As JSON.")] = False,
) -> None:
    """Say what a bundle, a run, a base model, a folder of edits or a video is.

    [bold]Examples[/]

      tav info bundles/skiing

      tav info pocket --json
    """
    options = {"tokenizer": tokenizer, "prediction_type": prediction_type, "revision": revision}
    facts = _facts(path if path.exists() else find_base(path), options)
    if as_json:
        typer.echo(json.dumps(facts, indent=2, ensure_ascii=False))
        return
    table = Table(show_header=False, box=None, pad_edge=False)
    for key, value in facts.items():
        table.add_row(f"[bold]{key.replace('_', ' ')}[/]", escape(_shown(key, value)))
    Console(highlight=False, emoji=False).print(table)


def _facts(path: Path, options: Mapping[str, Any]) -> dict[str, Any]:
    """What ``--json`` prints: plain values, sizes in bytes."""
    if (path / "manifest.json").is_file():
        return _bundle(path)
    if (path / RECORD).is_file():
        return _run(path)
    if (path / "unet").is_dir() or (path / "model_index.json").is_file():
        return _base(path, options)
    if (path / "edits.json").is_file():
        return _edits(path)
    if path.is_file():
        return _base(path, options) if path.suffix in CHECKPOINTS else _video(path)
    if (started := partial_folder(path) / STARTED).is_file():
        return _unfinished(path, started)
    if is_hub_id(path):
        return _base(path, options)
    if not path.exists():
        raise InputError(
            f"there is nothing at {path}; give a bundle, a run, a base model, a folder of edits or a video"
        )
    raise InputError(
        f"{path} is neither a bundle (manifest.json), nor a run (run.json), nor a base model (model_index.json), nor a "
        "folder of edits (edits.json)"
    )


def _bundle(path: Path) -> dict[str, Any]:
    from tav_sdk.bundle import Bundle

    manifest = Bundle(path).manifest  # compares every file with its hash
    return {
        "kind": "bundle",
        "prompt": manifest.prompt,
        "clip": {"frames": manifest.num_frames, "height": manifest.height, "width": manifest.width},
        "precision": manifest.precision,
        "inflation": manifest.inflation,
        "edited_with": {
            key: getattr(manifest, key) for key in ("num_inference_steps", "guidance_scale", "invert_with")
        },
        "base": {key: manifest.provenance["base"][key] for key in ("name", "sha256")},
        "graphs": {
            name: {"opset": graph.opset, "precision": graph.precision, "parity_max_abs": graph.parity_max_abs}
            for name, graph in manifest.graphs.items()
        },
        **({} if manifest.quality is None else {"quality": manifest.quality}),
        "bytes": sum(entry.size for entry in manifest.files.values()),
        "files": len(manifest.files),
    }


def _run(path: Path) -> dict[str, Any]:
    from tav_sdk.training import load_run

    run = load_run(path)
    facts = _tuning(run.config.to_dict())
    if imported := run.record.get("imported"):
        del facts["tuning"]  # defaults: nobody knows what it was tuned with
        facts["imported"] = {key: imported[key] for key in ("of", "name", "sha256")}
    base = run.record["base"]
    return {
        "kind": "run",
        **facts,
        "base": {key: base[key] for key in ("name", "revision", "sha256") if key in base},
        **({"loras": {lora["name"]: lora["scale"] for lora in base["loras"]}} if "loras" in base else {}),
        "bytes": run.delta_path.stat().st_size,
    }


def _unfinished(path: Path, started: Path) -> dict[str, Any]:
    try:
        config = json.loads(started.read_text(encoding="utf-8"))["config"]
        facts = _tuning(config)
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{started} is damaged: {error}; start anew with tav tune --overwrite") from error
    return {"kind": "unfinished run", **facts, "next": f"tav tune with the same options and --resume continues {path}"}


def _tuning(config: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "prompt": config["prompt"],
        "clip": {"frames": config["num_frames"], "height": config["height"], "width": config["width"]},
        "frames": {"start": config["start"], "stride": config["stride"]},
        "tuning": {key: config[key] for key in ("num_train_steps", "learning_rate", "seed")},
        "inflation": dict(config["inflation"]),
    }


def _base(path: Path, options: Mapping[str, Any]) -> dict[str, Any]:
    import dataclasses

    from tav_sdk.training import BaseModel

    # Of the hub only what is in the cache: nothing is downloaded to be described.
    base = BaseModel(path, weights=False, local_files_only=True, **options)
    schedule, unet = base.schedule, base.configs["unet"]
    return {
        "kind": "base model",
        "size_multiple": base.size_multiple,
        "unet": {"block_out_channels": unet["block_out_channels"], "cross_attention_dim": unet["cross_attention_dim"]},
        "vae": {"factor": base.vae_scale_factor, "scaling_factor": base.scaling_factor},
        "schedule": {key: getattr(schedule, key) for key in ("beta_schedule", "prediction_type", "timestep_spacing")},
        "recommended": dataclasses.asdict(base.recommended),
        **({"revision": base.commit} if base.commit else {}),
        **({"sha256": base.sha256} if base.tokenizer_folder else {}),
    }


def _edits(path: Path) -> dict[str, Any]:
    try:
        record = dict(json.loads((path / "edits.json").read_text(encoding="utf-8")))
        edits = {entry["file"]: entry["prompt"] for entry in record.pop("edits")}
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path / 'edits.json'} is damaged: {error}") from error
    return {"kind": "edits", **record, "edits": edits}


def _video(path: Path) -> dict[str, Any]:
    from tav_sdk.video import probe

    found = probe(path)
    return {
        "kind": "video",
        "height": found.height,
        "width": found.width,
        "frames": found.num_frames,
        "fps": found.fps,
        "codec": found.codec,
    }


def _shown(key: str, value: Any) -> str:
    """A value for people."""
    if key == "bytes":
        return f"{value / 1e6:,.1f} MB"
    if isinstance(value, Mapping):
        return ", ".join(f"{name.replace('_', ' ')} {_shown(name, inner)}" for name, inner in value.items())
    if isinstance(value, float):
        return f"{value:g}"
    if key == "sha256":
        return value[:12]
    return str(value)
