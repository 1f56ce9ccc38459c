"""From a ControlNet in the diffusers format to a graph that steers a bundle's U-Net."""

from __future__ import annotations

import hashlib
import importlib.metadata
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import ControlNetModel

from tav_sdk.bundle.bundle import Bundle
from tav_sdk.bundle.graph_folder import file_entries
from tav_sdk.bundle.layout import CONTROLNET, GRAPH_FILE, UNET
from tav_sdk.bundle.manifest import GraphEntry, TensorEntry
from tav_sdk.cache.entry import cache_key
from tav_sdk.cache.store import Cache
from tav_sdk.errors import BaseModelError, PickledWeightsError
from tav_sdk.export import graphs
from tav_sdk.export.parity import check_parity
from tav_sdk.export.precision import HALF, to_half
from tav_sdk.export.reference import evaluate
from tav_sdk.export.to_onnx import export_graph
from tav_sdk.files import new_folder, sha256_of, write_text
from tav_sdk.output_paths import check_new
from tav_sdk.pipeline.controlnet import MANIFEST, ControlNetManifest
from tav_sdk.pocket import CONTROLNET as CONTROLNET_FOLDER
from tav_sdk.pocket import POCKET
from tav_sdk.progress import Callback, Item, StepProgress, report
from tav_sdk.training.base.part_configs import ControlNetConfig, read_part_config
from tav_sdk.training.base.reading import PICKLED, reading

WEIGHTS = "diffusion_pytorch_model"
EXPORTED = "exported"
"""Folder of a cache's entry."""


def export_controlnet(
    controlnet: str | Path,
    out: str | Path,
    *,
    bundle: str | Path | Bundle,
    parity: bool = True,
    allow_pickle: bool = False,
    overwrite: bool = False,
    callback: Callback | None = None,
) -> Path:
    """Export a ControlNet for bundles of one shape: their size, number of frames, text states and precision.

    Args:
        controlnet: a folder in the diffusers format, ``config.json`` and weights.
        out: the folder to write; appears when all is done.
        bundle: one of the bundles that it is to steer, exported with control.
        parity: compare the graph with its model, here on the CPU.
        allow_pickle: read ``.bin`` weights where there is no ``.safetensors``.
        overwrite: replace what is in ``out``.
        callback: called when the graph is there; ``False`` cancels.

    Returns:
        ``out``.

    Raises:
        BundleError: the bundle is damaged, or its U-Net takes no control.
        BaseModelError: there is no ControlNet, it cannot be read, or it is for another base; says what differs.
        PickledWeightsError: it has only pickled weights and ``allow_pickle`` is not set.
        ParityError: the graph does not compute what its model does.
        OutputError: ``out`` is not empty, or cannot be written.
        CancelledError: the callback returned ``False``.
    """
    check_new(out, overwrite=overwrite)
    source = Path(controlnet)
    bundle = bundle if isinstance(bundle, Bundle) else Bundle(bundle, verify=False)
    bundle.check_control()
    model = _load(source, allow_pickle=allow_pickle)
    contract = _contract(model, bundle, source)
    precision = bundle.manifest.precision if bundle.manifest.precision in HALF else "fp32"
    with new_folder(out, overwrite=overwrite) as folder:
        module = graphs.ControlNetGraph(model).eval()
        feeds = contract.dummy_feeds(seed=1, axis_length=1)
        feeds["controlnet_cond"] = (feeds["controlnet_cond"] > 1.3).astype(np.float32)
        feeds["conditioning_scale"] = np.ones((), np.float32)
        reference = evaluate(module, contract, feeds)
        contract = contract.computing_in(precision)
        if precision in HALF:
            to_half(module, precision)
        (folder / CONTROLNET).mkdir()
        graph = export_graph(module, contract, folder / CONTROLNET)
        module.to("meta")
        entry = GraphEntry(
            file=f"{CONTROLNET}/{GRAPH_FILE}",
            opset=graphs.OPSET,
            inputs=tuple(map(TensorEntry.of, contract.inputs)),
            outputs=tuple(map(TensorEntry.of, contract.outputs)),
            parity_max_abs=check_parity(reference, contract, graph.path) if parity else None,
            precision=precision,
            axes=contract.axes,
        )
        manifest = ControlNetManifest(
            graph=entry,
            files=file_entries(folder),
            provenance={
                "name": source.resolve().name,
                "sha256": hash_of(source),
                "versions": {name: importlib.metadata.version(name) for name in ("torch", "diffusers", "onnxscript")},
            },
        )
        write_text(folder / MANIFEST, manifest.model_dump_json(indent=2) + "\n")
        report(callback, StepProgress("export", 1, 1, item=Item(kind="graph", index=1, count=1, name=CONTROLNET)))
    return Path(out)


def cached_controlnet(
    controlnet: str | Path, *, bundle: Bundle, allow_pickle: bool = False, callback: Callback | None = None
) -> Path:
    """The folder of a ControlNet exported for bundles of one shape, from the cache; exported into it first if need be.

    Args, and errors: those of :func:`export_controlnet`.
    """
    source, cache = Path(controlnet), Cache("controlnets")
    _config(source)  # says so if there is nothing
    bundle.check_control()
    entry = bundle.manifest.graphs[UNET]
    facts = {
        "name": POCKET if source == CONTROLNET_FOLDER else source.resolve().name,
        "sha256": hash_of(source),
        "precision": bundle.manifest.precision,
        "inputs": {tensor.name: list(tensor.shape) for tensor in entry.inputs},
        "size": [bundle.manifest.height, bundle.manifest.width],
        "opset": graphs.OPSET,
        "torch": importlib.metadata.version("torch"),
    }

    def make(folder: Path) -> None:
        export_controlnet(
            source, folder / EXPORTED, bundle=bundle, allow_pickle=allow_pickle, overwrite=True, callback=callback
        )

    return cache.get_or_make(cache_key(facts), make, facts=facts) / EXPORTED


def hash_of(source: Path) -> str:
    """Identity of a ControlNet: a hash over its configuration and weights."""
    files = sorted(path for path in source.iterdir() if path.is_file())
    return hashlib.sha256("".join(f"{path.name} {sha256_of(path)}\n" for path in files).encode()).hexdigest()


def _load(source: Path, *, allow_pickle: bool) -> ControlNetModel:
    config = _config(source)
    if config.get("_class_name") != "ControlNetModel":
        raise BaseModelError(
            f"{source} is a {str(config.get('_class_name', 'model of no class'))[:100]}, expected a "
            "ControlNetModel; T2I-Adapters and ControlNets of SDXL or transformer models are not supported"
        )
    files = [path for path in source.iterdir() if path.is_file()]
    if not any(path.suffix == ".safetensors" for path in files):
        pickled = [path.name for path in files if path.suffix in PICKLED]
        if not pickled:
            raise BaseModelError(f"the ControlNet {source} lacks {WEIGHTS}.safetensors, its weights")
        if not allow_pickle:
            raise PickledWeightsError(
                f"the ControlNet {source} has only pickled weights ({', '.join(pickled)}); reading a pickle can run "
                "code. Convert it to .safetensors, or, if you trust it, allow it with allow_pickle, "
                "which reads tensors only (weights_only)"
            )
    with reading(f"the ControlNet {source}"):
        model: Any = ControlNetModel.from_pretrained(
            source,
            torch_dtype=torch.float32,
            use_safetensors=None if allow_pickle else True,
            local_files_only=True,
        )
        return model.eval().requires_grad_(False)


def _config(source: Path) -> dict[str, Any]:
    path = source / "config.json"
    if not path.is_file():
        raise BaseModelError(
            f"there is no ControlNet at {source}; give a folder in the diffusers format, with config.json and "
            f"{WEIGHTS}.safetensors"
        )
    return read_part_config(path, ControlNetConfig)


def _contract(model: ControlNetModel, bundle: Bundle, source: Path) -> graphs.GraphContract:
    """The graph's contract, which is the U-Net's as far as they meet."""
    manifest, config = bundle.manifest, dict(model.config)
    inputs = {tensor.name: tensor.spec for tensor in manifest.graphs[UNET].inputs}
    video, states = inputs["sample"].shape, inputs["encoder_hidden_states"].shape
    (_, channels, frames, height, width), (_, _, text_width) = video, states
    residuals = graphs.residual_specs(
        config["block_out_channels"],
        config["layers_per_block"],
        num_frames=int(frames),
        height=int(height),
        width=int(width),
    )
    factor = 2 ** (len(config["conditioning_embedding_out_channels"]) - 1)
    for what, got, expected in (
        ("channels of the latents", config["in_channels"], channels),
        ("width of the text states", config["cross_attention_dim"], text_width),
        ("channels of the control pictures", config.get("conditioning_channels", 3), 3),
        ("pixels of a control picture per latent", factor, manifest.vae_scale_factor),
        ("residuals", _listed(residuals), _listed(bundle.residuals)),
    ):
        if got != expected:
            raise BaseModelError(
                f"the ControlNet {source} does not fit the bundle {bundle.folder}, it is for another base: {what}: "
                f"expected {expected}, got {got}"
            )
    return graphs.controlnet_contract(
        video=video,
        states=states,
        size=(manifest.height, manifest.width),
        num_timesteps=bundle.schedule.num_train_timesteps,
        residuals=residuals,
    )


def _listed(specs: Any) -> str:
    return ", ".join("x".join(map(str, spec.shape[2:])) for spec in specs)
