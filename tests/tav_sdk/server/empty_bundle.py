"""Bundles that everything but an engine takes for whole."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from tav_sdk.bundle.layout import GRAPHS, SCHEDULER, TOKENIZER, TOKENIZER_FILES
from tav_sdk.diffusion.schedule import DDIMSchedule

WIDTH, HEIGHT, FRAMES = 96, 64, 8
_LATENTS, _STATES = (4, HEIGHT // 8, WIDTH // 8), ("batch", 77, 16)
PORTS: dict[str, tuple[list[tuple[str, str, tuple[Any, ...]]], list[tuple[str, str, tuple[Any, ...]]]]] = {
    "text_encoder": ([("input_ids", "int64", ("batch", 77))], [("last_hidden_state", "float32", _STATES)]),
    "vae_encoder": (
        [("sample", "float32", ("frames", 3, HEIGHT, WIDTH))],
        [("latent_parameters", "float32", ("frames", 8, HEIGHT // 8, WIDTH // 8))],
    ),
    "vae_decoder": (
        [("latent_sample", "float32", ("frames", *_LATENTS))],
        [("sample", "float32", ("frames", 3, HEIGHT, WIDTH))],
    ),
    "unet": (
        [
            ("sample", "float32", ("batch", 4, FRAMES, HEIGHT // 8, WIDTH // 8)),
            ("timestep", "int64", ()),
            ("encoder_hidden_states", "float32", _STATES),
        ],
        [("out_sample", "float32", ("batch", 4, FRAMES, HEIGHT // 8, WIDTH // 8))],
    ),
}


def make_bundle(folder: Path, *, prompt: str = "a man is skiing", **more: Any) -> Path:
    """A bundle with empty graphs: enough for everything that computes nothing."""
    files: dict[str, bytes] = {f"{TOKENIZER}/{name}": b"{}" for name in TOKENIZER_FILES}
    files[SCHEDULER] = json.dumps(DDIMSchedule().to_config()).encode()
    graphs = {}
    for name in GRAPHS:
        files[f"{name}/model.onnx"] = b""
        inputs, outputs = ([_value(*value) for value in values] for values in PORTS[name])
        graphs[name] = {
            "file": f"{name}/model.onnx",
            "opset": 20,
            "inputs": inputs,
            "outputs": outputs,
            "parity_max_abs": None,
        }
    for path, content in files.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(content)
    manifest = {
        "format_version": 3,
        "precision": "fp32",
        "prompt": prompt,
        "num_frames": FRAMES,
        "height": HEIGHT,
        "width": WIDTH,
        "latent_channels": 4,
        "vae_scale_factor": 8,
        "scaling_factor": 0.18215,
        "inflation": {},
        "num_inference_steps": 20,
        "guidance_scale": 7.5,
        "graphs": graphs,
        "files": {p: {"size": len(c), "sha256": hashlib.sha256(c).hexdigest()} for p, c in files.items()},
        "base": {"name": "pocket", "sha256": "0" * 64},
        "clip": {"fps": 12.0, "start": 0, "stride": 1},
        "tuned_sha256": "0" * 64,
        "provenance": {},
        **more,
    }
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return folder


def _value(name: str, dtype: str, shape: tuple[Any, ...]) -> dict[str, Any]:
    return {"name": name, "dtype": dtype, "shape": list(shape)}
