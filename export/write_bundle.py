"""From a tuned run to a bundle."""

from __future__ import annotations

import gc
import json
from pathlib import Path
from typing import Any

from torch import nn

from tav_sdk.bundle import (
    FORMAT_VERSION,
    GRAPH_FILE,
    GRAPHS,
    SCHEDULER,
    TOKENIZER,
    GraphEntry,
    Manifest,
    TensorEntry,
    file_entries,
    write_manifest,
)
from tav_sdk.errors import BaseModelError
from tav_sdk.export import graphs
from tav_sdk.export.parity import check_parity
from tav_sdk.export.to_onnx import export_graph
from tav_sdk.files import check_new, new_folder
from tav_sdk.progress import Callback, StepProgress, report
from tav_sdk.training.base import BaseModel
from tav_sdk.training.checkpoint import Run, load_delta, load_run
from tav_sdk.training.inflation import inflate, trainable_parameters


def export_bundle(
    run: Run | str | Path,
    out: str | Path,
    *,
    base: str | Path | None = None,
    allow_pickle: bool = False,
    overwrite: bool = False,
    callback: Callback | None = None,
) -> Path:
    """Export a tuned run: four ONNX graphs, each compared with its model, tokenizer, schedule and manifest.

    One model is in memory at a time.

    Args:
        run: a finished run or its folder.
        out: the bundle's folder; appears when all is done.
        base: the base model's folder, if it is no longer where the run was tuned.
        allow_pickle: read a base's ``.bin`` weights where it has no ``.safetensors``, even if the run did not.
        overwrite: replace what is in ``out``.
        callback: called after each of the graphs; ``False`` cancels.

    Returns:
        ``out``.

    Raises:
        CheckpointError: the run is unfinished or damaged.
        BaseModelError: the base is missing, or not the one that the run was tuned on.
        ParityError: a graph does not compute what its model does.
        OutputError: ``out`` is not empty, or cannot be written.
        CancelledError: the callback returned ``False``.
    """
    check_new(out, overwrite=overwrite)
    run = run if isinstance(run, Run) else load_run(run)
    config = run.config
    model = BaseModel(Path(base or config.base), allow_pickle=allow_pickle or config.allow_pickle)
    if model.sha256 != run.record["base"]["sha256"]:
        raise BaseModelError(
            f"{model.folder} is not the base that the run {run.folder} was tuned on: expected sha256 "
            f"{run.record['base']['sha256'][:12]}..., got {model.sha256[:12]}...; give that one with --base"
        )
    with new_folder(out, overwrite=overwrite) as folder:
        entries = _Exporter(run, model, folder, callback).export()
        (folder / TOKENIZER).mkdir()
        model.load_tokenizer().save(folder / TOKENIZER)
        (folder / SCHEDULER).parent.mkdir()
        (folder / SCHEDULER).write_text(json.dumps(model.schedule.to_config(), indent=2) + "\n")
        manifest = Manifest(
            format_version=FORMAT_VERSION,
            precision="fp32",
            prompt=config.prompt,
            num_frames=config.num_frames,
            height=config.height,
            width=config.width,
            latent_channels=int(model.configs["vae"]["latent_channels"]),
            vae_scale_factor=model.vae_scale_factor,
            scaling_factor=model.scaling_factor,
            inflation=config.inflation.to_dict(),
            num_inference_steps=model.recommended.num_inference_steps,
            guidance_scale=model.recommended.guidance_scale,
            invert_with=model.recommended.invert_with,
            graphs=entries,
            files=file_entries(folder),
            provenance=_provenance(run),
        )
        write_manifest(folder, manifest)
    return Path(out)


class _Exporter:
    """The four graphs of one bundle."""

    def __init__(self, run: Run, base: BaseModel, folder: Path, callback: Callback | None) -> None:
        self.run, self.base, self.folder, self.callback = run, base, folder, callback
        self.entries: dict[str, GraphEntry] = {}

    def export(self) -> dict[str, GraphEntry]:
        config, configs = self.run.config, self.base.configs
        channels = int(configs["vae"]["latent_channels"])
        text_width = int(configs["text_encoder"]["hidden_size"])
        num_tokens = self.base.load_tokenizer().model_max_length
        size = {"height": config.height, "width": config.width, "factor": self.base.vae_scale_factor}
        self._export(
            graphs.TextEncoderGraph(self.base.load_text_encoder()),
            graphs.text_encoder_contract(
                num_tokens=num_tokens, width=text_width, vocabulary=int(configs["text_encoder"]["vocab_size"])
            ),
        )
        vae = self.base.load_vae()
        self._export(graphs.VaeEncoderGraph(vae), graphs.vae_encoder_contract(channels=channels, **size))
        self._export(graphs.VaeDecoderGraph(vae), graphs.vae_decoder_contract(channels=channels, **size))
        del vae
        gc.collect()
        unet = inflate(self.base.load_unet(), config.inflation, config.num_frames).eval()
        load_delta(unet, self.run.delta_path)
        contract = graphs.unet_contract(
            channels=int(configs["unet"]["in_channels"]),
            num_frames=config.num_frames,
            height=config.height // self.base.vae_scale_factor,
            width=config.width // self.base.vae_scale_factor,
            num_tokens=num_tokens,
            text_width=text_width,
            num_timesteps=self.base.schedule.num_train_timesteps,
        )
        self._export(unet, contract, tuned=set(trainable_parameters(unet)))
        return self.entries

    def _export(self, module: nn.Module, contract: graphs.GraphContract, **how: Any) -> None:
        folder = self.folder / contract.name
        folder.mkdir()
        path = export_graph(module, contract, folder, **how)
        self.entries[contract.name] = GraphEntry(
            file=f"{contract.name}/{GRAPH_FILE}",
            opset=graphs.OPSET,
            inputs=tuple(TensorEntry(name=s.name, dtype=s.dtype, shape=s.shape) for s in contract.inputs),
            outputs=tuple(TensorEntry(name=s.name, dtype=s.dtype, shape=s.shape) for s in contract.outputs),
            parity_max_abs=check_parity(module, contract, path),
        )
        report(
            self.callback,
            StepProgress("export", len(self.entries), len(GRAPHS), metrics={"graph": contract.name}),
        )


def _provenance(run: Run) -> dict[str, Any]:
    record = run.record
    config = {key: value for key, value in record["config"].items() if key not in ("base", "video", "out")}
    return {
        "base": record["base"],
        "clip": record["clip"],
        "tuning": config,
        "delta_sha256": record["delta_sha256"],
        "versions": record["versions"],
    }
