"""``tav info``"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from tav_sdk.cli.base_options import PredictionType, Revision, TokenizerFolder
from tav_sdk.cli.console import cell, screen, write_json
from tav_sdk.errors import InputError
from tav_sdk.pocket import find_base
from tav_sdk.training.base.hub import is_hub_id
from tav_sdk.training.run_folder import RECORD, STARTED, partial_folder

KINDS = "a bundle, a run, a base model, a ControlNet, a folder of edits or a video"
EXPORTED_CONTROLNET = "controlnet.json"
BY_FILE_NAME = ("loras", "edits")
"""Facts whose names are those of files."""
CHECKPOINTS = (".safetensors", ".ckpt")
"""Suffixes of single-file base models."""


def info(
    path: Annotated[
        str,
        typer.Argument(
            help="A bundle, run, base model (pocket, or a Hugging Face id), ControlNet, folder of edits, or video."
        ),
    ],
    tokenizer: TokenizerFolder = None,
    prediction_type: PredictionType = None,
    revision: Revision = None,
    as_json: Annotated[bool, typer.Option("--json", help="As JSON.")] = False,
) -> None:
    """Say what a bundle, a run, a base model, a ControlNet, a folder of edits or a video is.

    [bold]Examples[/]

      tav info bundles/skiing

      tav info pocket --json
    """
    options = {"tokenizer": tokenizer, "prediction_type": prediction_type, "revision": revision}
    if not path.strip():
        raise InputError(f"the path is empty; give {KINDS}")
    facts = _facts(path, options)
    if as_json:
        write_json(facts)
        return
    table = Table(show_header=False, box=None, pad_edge=False)
    for key, value in facts.items():
        table.add_row(cell(key.replace("_", " "), "bold"), cell(_shown(key, value)))
    screen().print(table)


def _facts(given: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """What ``--json`` prints: plain values, sizes in bytes."""
    path = Path(given) if Path(given).exists() else find_base(given)
    if (path / "manifest.json").is_file():
        return _bundle(path)
    if (path / RECORD).is_file():
        return _run(path)
    if (path / EXPORTED_CONTROLNET).is_file():
        return _exported_controlnet(path)
    if (config := _config(path)).get("_class_name") == "ControlNetModel":
        return _controlnet(path, config)
    if (path / "unet").is_dir() or (path / "model_index.json").is_file():
        return _base(path, options)
    if (path / "edits.json").is_file():
        return _edits(path)
    if path.is_file():
        return _base(path, options) if path.suffix in CHECKPOINTS else _video(path)
    if (started := partial_folder(path) / STARTED).is_file():
        return _unfinished(path, started)
    if is_hub_id(given):
        return _of_the_hub(given, options)
    if not path.exists():
        raise InputError(f"there is nothing at {given}; give {KINDS}")
    raise InputError(
        f"{given} is neither a bundle (manifest.json), nor a run (run.json), nor a base model (model_index.json), nor "
        f"a ControlNet ({EXPORTED_CONTROLNET}, or config.json of a ControlNetModel), nor a folder of edits (edits.json)"
    )


def _bundle(path: Path) -> dict[str, Any]:
    from tav_sdk.bundle.bundle import Bundle

    bundle = Bundle(path)  # compares every file with its hash
    manifest = bundle.manifest
    told = manifest.provenance  # shown as it is
    return {
        "kind": "bundle",
        "prompt": manifest.prompt,
        "clip": {"frames": manifest.num_frames, "height": manifest.height, "width": manifest.width},
        "precision": manifest.precision,
        "takes_control": bool(bundle.residuals),
        "inflation": manifest.inflation,
        **({"tuning": {"num_train_steps": steps}} if (steps := told["tuning"].get("num_train_steps")) else {}),
        "edited_with": {
            key: getattr(manifest, key) for key in ("num_inference_steps", "guidance_scale", "invert_with")
        },
        "base": manifest.base.model_dump(),
        **_loras(told["base"]),
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
    facts: dict[str, Any] = {**_tuning(run.config.to_dict()), "steps": list(run.steps)}
    if imported := run.record.get("imported"):
        del facts["tuning"], facts["steps"]  # defaults: nobody knows what it was tuned with
        facts["imported"] = {key: imported[key] for key in ("of", "name", "sha256")}
    base = run.record["base"]
    return {
        "kind": "run",
        **facts,
        "base": {key: base[key] for key in ("name", "revision", "sha256") if key in base},
        **_loras(base),
        "bytes": run.tuned_path.stat().st_size,
    }


def _loras(base: Mapping[str, Any]) -> dict[str, Any]:
    """LoRAs and scales of what a run or a bundle records of its base."""
    return {"loras": {lora["name"]: lora["scale"] for lora in base["loras"]}} if base.get("loras") else {}


def _unfinished(path: Path, started: Path) -> dict[str, Any]:
    from tav_sdk.reading import read_json

    values = read_json(started, error=InputError, advice="start anew with tav tune --overwrite")
    try:
        facts = _tuning(values["config"])
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


def _of_the_hub(repo: str, options: Mapping[str, Any]) -> dict[str, Any]:
    from tav_sdk.errors import NotInCacheError

    try:
        return _base(repo, options)
    except NotInCacheError as error:
        at = f" --revision {options['revision']}" if options["revision"] else ""
        raise InputError(
            f"there is nothing at {repo}, and no model of that id in the Hugging Face cache; tav info downloads "
            f"nothing. tav plan --base {repo}{at} fetches its configurations, tav tune all of it"
        ) from error


def _base(path: str | Path, options: Mapping[str, Any]) -> dict[str, Any]:
    import dataclasses

    from tav_sdk.training import PretrainedBase

    # Of the hub only what is in the cache: nothing is downloaded to be described.
    base = PretrainedBase(path, weights=False, local_files_only=True, **options)
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


def _exported_controlnet(path: Path) -> dict[str, Any]:
    from tav_sdk.bundle.graph_folder import GraphFolder
    from tav_sdk.bundle.layout import CONTROLNET
    from tav_sdk.pipeline.controlnet import read_controlnet_manifest

    manifest = read_controlnet_manifest(path)
    shapes = {spec.name: spec.shape for spec in manifest.graph.inputs}
    if len(shapes.get("controlnet_cond", ())) != 4:
        raise InputError(f"{path / EXPORTED_CONTROLNET} is damaged: no controlnet_cond; export the ControlNet again")
    frames, _, height, width = shapes["controlnet_cond"]
    # Compares every file with its hash.
    GraphFolder("ControlNet", path, manifest.files, {CONTROLNET: manifest.graph}, verify=True)
    graph, made_from = manifest.graph, manifest.provenance
    return {
        "kind": "exported ControlNet",
        "clip": {"frames": frames, "height": height, "width": width},
        "precision": graph.precision,
        "made_from": {key: made_from[key] for key in ("name", "sha256") if key in made_from},
        "graph": {"opset": graph.opset, "parity_max_abs": graph.parity_max_abs},
        "bytes": sum(entry.size for entry in manifest.files.values()),
        "files": len(manifest.files),
        "next": f"tav edit BUNDLE --controlnet {path} --control CONTROL ... steers edits with it",
    }


def _controlnet(path: Path, config: Mapping[str, Any]) -> dict[str, Any]:
    unet = {key: config[key] for key in ("block_out_channels", "cross_attention_dim") if key in config}
    files = [file for file in path.iterdir() if file.suffix in (".safetensors", ".bin")]
    return {
        "kind": "ControlNet",
        "for_a_unet": unet,
        "weights": [file.name for file in sorted(files)],
        "bytes": sum(file.stat().st_size for file in files),
        "next": f"tav edit BUNDLE --controlnet {path} --control CONTROL ... exports it and steers edits with it",
    }


def _config(path: Path) -> dict[str, Any]:
    """The ``config.json`` of one model in the diffusers format; empty if there is none that can be read."""
    from tav_sdk.reading import read_json

    try:
        return dict(read_json(path / "config.json", error=InputError, advice=""))
    except (InputError, ValueError, TypeError):
        return {}


def _edits(path: Path) -> dict[str, Any]:
    from tav_sdk.edits import read_record

    record = read_record(path)
    return {"kind": "edits", **record.settings, "edits": dict(record.edits)}


def _video(path: Path) -> dict[str, Any]:
    from tav_sdk.video.clip import probe

    found = probe(path)
    return {
        "kind": "video",
        "height": found.height,
        "width": found.width,
        "frames": found.num_frames,
        "fps": found.fps,
        "codec": found.codec,
    }


def _name(name: str, key: str) -> str:
    """A name within a fact for people; files keep theirs."""
    return name if key in BY_FILE_NAME else name.replace("_", " ")


def _shown(key: str, value: Any) -> str:
    """A value for people."""
    if key == "bytes":
        return f"{value / 1e6:,.1f} MB"
    if isinstance(value, Mapping):
        return ", ".join(f"{_name(name, key)} {_shown(name, inner)}" for name, inner in value.items())
    if value is None:
        return "not compared" if key == "parity_max_abs" else "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list) and all(isinstance(one, str) for one in value):
        return ", ".join(value) or "none"
    if isinstance(value, float):
        return f"{value:g}"
    if key == "sha256":
        return str(value)[:12]
    return str(value)
