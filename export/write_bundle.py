"""From a tuned run to a bundle."""

from __future__ import annotations

import dataclasses
import gc
import json
from collections.abc import Collection, Sequence
from pathlib import Path

import numpy as np
from torch import nn

from tav_sdk.bundle.graph_folder import file_entries
from tav_sdk.bundle.layout import (
    FORMAT_VERSION,
    GRAPH_FILE,
    GRAPHS,
    PAST,
    REFERENCES,
    SCHEDULER,
    TOKENIZER,
    UNET,
    WINDOWED_FILE,
)
from tav_sdk.bundle.manifest import GraphEntry, Manifest, TensorEntry, write_manifest
from tav_sdk.bundle.precision import check_precision
from tav_sdk.engines.base import TensorSpec
from tav_sdk.export import graphs
from tav_sdk.export.clip_bundle import provenance
from tav_sdk.export.int8 import quantize
from tav_sdk.export.parity import check_parity
from tav_sdk.export.precision import HALF, INT8, graph_precision, kept_islands, to_half
from tav_sdk.export.quality import QUALITY_TOLERANCES, check_edit_quality
from tav_sdk.export.reference import Reference, evaluate, picture
from tav_sdk.export.to_onnx import ExportedGraph, export_graph
from tav_sdk.export.untuned import write_untuned
from tav_sdk.files import check_new, new_folder
from tav_sdk.progress import Callback, StepProgress, report
from tav_sdk.training.base.model import PretrainedBase
from tav_sdk.training.checkpoint import load_tuned_weights, untuned_weights
from tav_sdk.training.run_base import base_of_run
from tav_sdk.training.run_folder import Run, load_run
from tav_sdk.training.unet.inflation import inflate, trainable_parameters
from tav_sdk.training.unet.video_unet import VideoUNet
from tav_sdk.training.unet.windowed import WindowedUNet, can_continue, past_shapes


def export_bundle(
    run: Run | str | Path,
    out: str | Path,
    *,
    precision: str = "fp32",
    control: bool = False,
    windows: bool = True,
    base: str | Path | None = None,
    loras: Sequence[str | Path] | None = None,
    tokenizer: str | Path | None = None,
    parity: bool = True,
    quality: bool = True,
    allow_pickle: bool = False,
    overwrite: bool = False,
    callback: Callback | None = None,
) -> Path:
    """Export a tuned run: ONNX graphs, each compared with its model, tokenizer, schedule and manifest.

    One model is in memory at a time. A base that has its own CLIP, as Pocket has, is also asked whether edits in low
    precision are as good as those of the float32 model.

    Args:
        run: a finished run or its folder.
        out: the bundle's folder; appears when all is done.
        precision: what the U-Net computes in, ``fp32``, ``fp16``, ``bf16``, or ``int8``, for the CPU; the manifest says
            of every graph what it computes in, and which parts are kept in float32. Inputs and outputs are float32.
        control: let the U-Net take a ControlNet's residuals; costs their addition at each step of every edit.
        windows: let the bundle go on, window by window, with videos longer than the run's clip: the U-Net is traced a
            second time, and shares its weights. Has no effect where that cannot be exact; see
            :func:`~tav_sdk.training.unet.windowed.can_continue`.
        base: the base model, if it is no longer where the run was tuned.
        loras: its LoRAs, ``FILE:SCALE`` in the same order, if they are no longer where they were.
        tokenizer: its tokenizer's folder, if that is no longer where it was.
        parity: compare each graph with its model, here on the CPU; without, :func:`tav_sdk.pipeline.verify.verify`
            does it on a machine that has the memory for it.
        quality: compare edits in low precision, where the base has its own CLIP; see
            :func:`~tav_sdk.export.quality.check_edit_quality`. Not without ``parity``.
        allow_pickle: read a base's ``.bin`` weights where it has no ``.safetensors``, even if the run did not.
        overwrite: replace what is in ``out``.
        callback: called after each of the graphs, with the stage ``export``, after each step of int8's ``calibration``,
            and after each video whose ``quality`` is compared; ``False`` cancels.

    Returns:
        ``out``.

    Raises:
        ConfigError: the precision is unknown.
        CheckpointError: the run is unfinished or damaged.
        BaseModelError: the base is missing, or it or a LoRA is not the one that the run was tuned on.
        ParityError: a graph does not compute what its model does, or the precision is too coarse for it.
        QualityError: the same of edits.
        OutputError: ``out`` is not empty, or cannot be written.
        CancelledError: the callback returned ``False``.
    """
    check_precision(precision)
    check_new(out, overwrite=overwrite)
    run = run if isinstance(run, Run) else load_run(run)
    config = run.config
    model = base_of_run(run, base, loras=loras, tokenizer=tokenizer, allow_pickle=allow_pickle)
    with new_folder(out, overwrite=overwrite) as folder:
        entries = _Exporter(run, model, folder, precision, control, windows, parity, callback).export()
        (folder / TOKENIZER).mkdir()
        model.load_tokenizer().save(folder / TOKENIZER)
        (folder / SCHEDULER).parent.mkdir()
        (folder / SCHEDULER).write_text(json.dumps(model.schedule.to_config(), indent=2) + "\n")
        manifest = Manifest(
            format_version=FORMAT_VERSION,
            precision=precision,  # type: ignore[arg-type]
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
            provenance=provenance(run),
        )
        write_manifest(folder, manifest)
        if parity and quality and precision in QUALITY_TOLERANCES:
            found = check_edit_quality(folder, run, model, callback=callback)
            write_manifest(folder, manifest.model_copy(update={"quality": found}))
    return Path(out)


class _Exporter:
    """The four graphs of one bundle."""

    def __init__(
        self,
        run: Run,
        base: PretrainedBase,
        folder: Path,
        precision: str,
        control: bool,
        windows: bool,
        parity: bool,
        callback: Callback | None,
    ) -> None:
        self.run, self.base, self.folder, self.callback = run, base, folder, callback
        self.precision, self.control, self.parity = precision, control, parity
        self.entries: dict[str, GraphEntry] = {}
        can = precision != INT8 and can_continue(run.config.inflation, run.config.num_frames)
        self.windows = windows and can
        self.count = len(GRAPHS) + self.windows

    def export(self) -> dict[str, GraphEntry]:
        """Export and check them one after the other; each gets an input that follows from the one before."""
        config, base = self.run.config, self.base
        channels = int(base.configs["vae"]["latent_channels"])
        text_width = int(base.configs["text_encoder"]["hidden_size"])
        tokenizer = base.load_tokenizer()
        size = {
            "channels": channels,
            "num_frames": config.num_frames,
            "height": config.height,
            "width": config.width,
            "factor": base.vae_scale_factor,
        }
        states = self._export(
            graphs.TextEncoderGraph(base.load_text_encoder()),
            graphs.text_encoder_contract(
                num_tokens=tokenizer.model_max_length,
                width=text_width,
                vocabulary=int(base.configs["text_encoder"]["vocab_size"]),
            ),
            input_ids=tokenizer(config.prompt),
        )
        posterior = self._export(
            graphs.VaeEncoderGraph(base.load_vae()),
            graphs.vae_encoder_contract(**size),
            sample=picture(config.height, config.width),
        )
        clean = posterior[:, :channels]  # (1, c, h, w)
        self._export(graphs.VaeDecoderGraph(base.load_vae()), graphs.vae_decoder_contract(**size), latent_sample=clean)
        gc.collect()
        unet = inflate(base.load_unet(), config.inflation, config.num_frames).eval()
        untuned = untuned_weights(unet)
        load_tuned_weights(unet, self.run.tuned_path)
        latents = {
            "num_frames": config.num_frames,
            "height": config.height // base.vae_scale_factor,
            "width": config.width // base.vae_scale_factor,
        }
        residuals = ()
        if self.control:
            config_of = dict(unet.config)
            residuals = graphs.residual_specs(config_of["block_out_channels"], config_of["layers_per_block"], **latents)
        contract = graphs.unet_contract(
            channels=int(base.configs["unet"]["in_channels"]),
            **latents,
            num_tokens=tokenizer.model_max_length,
            text_width=text_width,
            num_timesteps=base.schedule.num_train_timesteps,
        )
        video = np.repeat(clean[:, :, None], config.num_frames, axis=2) * np.float32(base.scaling_factor)
        noise = np.random.default_rng(0).standard_normal(video.shape, dtype=np.float32)
        timestep = base.schedule.num_train_timesteps // 3  # 333 has no exact bfloat16
        feeds = {
            "sample": base.schedule.add_noise(video, noise, timestep),
            "timestep": np.asarray(timestep),
            "encoder_hidden_states": states,
        }
        windowed = self._windowed(unet, contract, feeds, latents["height"], latents["width"])
        self._export(
            unet,
            dataclasses.replace(contract, inputs=(*contract.inputs, *residuals)),
            tuned=set(trainable_parameters(unet)),
            keep=windowed is not None,
            **feeds,
            **{spec.name: _small(spec) for spec in residuals},
        )
        if windowed is not None:
            self._export_windowed(*windowed)
            unet.to("meta")
        entry = self.entries[UNET]
        stored = write_untuned(untuned, entry.tuned, self.folder / UNET)
        self.entries[UNET] = entry.model_copy(update={"untuned": stored})
        return self.entries

    def _export(
        self,
        module: nn.Module,
        contract: graphs.GraphContract,
        *,
        tuned: Collection[str] = (),
        keep: bool = False,
        **feeds: np.ndarray,
    ) -> np.ndarray:
        """Export one graph; what the float32 module gives for ``feeds``. The module is used up, unless it is kept."""
        reference = evaluate(module, contract, feeds)
        reference.save(self.folder / REFERENCES / f"{contract.name}.npz")
        precision = graph_precision(contract.name, self.precision)
        contract = contract.computing_in(precision)
        kept = kept_islands(
            contract.name, precision, upcast_attention=bool(self.base.configs["unet"].get("upcast_attention"))
        )
        if precision in HALF:
            to_half(module, precision, kept)
        folder = self.folder / contract.name
        folder.mkdir()
        graph = export_graph(module, contract, folder, tuned=tuned)
        if not keep:
            module.to("meta")  # its memory: from here on the reference is enough
        if precision == INT8:  # torch traces float32
            states = feeds["encoder_hidden_states"]
            kept = quantize(graph.path, contract, self.base.schedule, states, callback=self.callback)
        self._enter(graph, contract, reference, kept)
        return reference.outputs[contract.outputs[0].name]

    def _windowed(
        self, unet: VideoUNet, contract: graphs.GraphContract, feeds: dict[str, np.ndarray], height: int, width: int
    ) -> tuple[WindowedUNet, graphs.GraphContract, Reference] | None:
        """The U-Net for windows of a longer video, with what it gives in float32 for the second window, or none."""
        if not self.windows:
            return None
        module, shapes = WindowedUNet(unet, height, width).eval(), past_shapes(unet, height, width)
        contract = graphs.windowed_unet_contract(contract, shapes)
        zeros = {f"{PAST}.{name}": np.zeros((1, *shape), np.float32) for name, shape in shapes.items()}
        first = evaluate(module, contract, {**feeds, "position": np.asarray(0), **zeros})
        past = dict(zip(zeros, list(first.outputs.values())[1:], strict=True))
        frames = np.ascontiguousarray(feeds["sample"][:, :, ::-1])
        second = {**feeds, "sample": frames, "position": np.asarray(unet.num_frames), **past}
        reference = evaluate(module, contract, second)
        # The rest is large, and follows from the U-Net's reference: see tav_sdk.pipeline.verify.
        output = contract.outputs[0].name
        Reference({}, {output: reference.outputs[output]}).save(self.folder / REFERENCES / f"{contract.name}.npz")
        return module, contract, reference

    def _export_windowed(self, module: WindowedUNet, contract: graphs.GraphContract, reference: Reference) -> None:
        """Export the windowed graph beside the U-Net's, whose weights it uses."""
        unet = self.entries[UNET]
        contract = contract.computing_in(unet.precision)
        folder = self.folder / UNET
        graph = export_graph(
            module,
            contract,
            folder,
            file=WINDOWED_FILE,
            weights_of=ExportedGraph(folder / GRAPH_FILE, unet.tuned),
        )
        self._enter(graph, contract, reference, unet.kept)

    def _enter(
        self, graph: ExportedGraph, contract: graphs.GraphContract, reference: Reference, kept: Sequence[str]
    ) -> None:
        """Compare a graph with its model, and note it for the manifest."""
        self.entries[contract.name] = GraphEntry(
            file=graph.path.relative_to(self.folder).as_posix(),
            opset=graphs.OPSET,
            inputs=tuple(TensorEntry(name=s.name, dtype=s.dtype, shape=s.shape) for s in contract.inputs),
            outputs=tuple(TensorEntry(name=s.name, dtype=s.dtype, shape=s.shape) for s in contract.outputs),
            parity_max_abs=check_parity(reference, contract, graph.path) if self.parity else None,
            precision=contract.precision,  # type: ignore[arg-type]
            kept=tuple(kept),
            axes=contract.axes,
            tuned=graph.tuned,
        )
        report(
            self.callback,
            StepProgress("export", len(self.entries), self.count, metrics={"graph": contract.name}),
        )


def _small(spec: TensorSpec) -> np.ndarray:
    """A ControlNet's residual as it might be, for one video; seeded by its name."""
    shape = [1 if isinstance(axis, str) else axis for axis in spec.shape]
    rng = np.random.default_rng(list(spec.name.encode()))
    return 0.1 * rng.standard_normal(shape, dtype=np.float32)
