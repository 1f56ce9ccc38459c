"""The graphs of a run's bundle: each traced, written and compared with its model, one model in memory at a time."""

from __future__ import annotations

import dataclasses
import gc
from collections.abc import Collection, Sequence
from pathlib import Path

import numpy as np
from torch import nn

from tav_sdk.bundle.layout import GRAPH_FILE, GRAPHS, PAST, REFERENCES, UNET, WINDOWED_FILE
from tav_sdk.bundle.manifest import GraphEntry, TensorEntry
from tav_sdk.engines.base import TensorSpec
from tav_sdk.export import graphs
from tav_sdk.export.int8 import quantize
from tav_sdk.export.options import ExportOptions
from tav_sdk.export.parity import check_parity
from tav_sdk.export.precision import HALF, INT8, graph_precision, kept_islands, to_half
from tav_sdk.export.reference import Reference, evaluate, picture
from tav_sdk.export.to_onnx import ExportedGraph, export_graph
from tav_sdk.export.untuned import write_untuned
from tav_sdk.progress import Callback, Item, StepProgress, report
from tav_sdk.training.base.model import PretrainedBase
from tav_sdk.training.checkpoint import load_tuned_weights, untuned_weights
from tav_sdk.training.run_folder import Run
from tav_sdk.training.unet.inflation import inflate, trainable_parameters
from tav_sdk.training.unet.video_unet import VideoUNet
from tav_sdk.training.unet.windowed import WindowedUNet, can_continue, past_shapes


class GraphExporter:
    """The graphs of one bundle: four, and the U-Net for windows where there can be one.

    Args:
        run: what is exported.
        base: the base that it was tuned on.
        folder: where the graphs, their weights and references go.
        options: see :class:`ExportOptions`.
        callback: called after each graph.
    """

    def __init__(
        self, run: Run, base: PretrainedBase, folder: Path, options: ExportOptions, callback: Callback | None
    ) -> None:
        self.run, self.base, self.folder, self.options, self.callback = run, base, folder, options, callback
        self.tokenizer = base.load_tokenizer()
        self.entries: dict[str, GraphEntry] = {}
        can = options.precision != INT8 and can_continue(run.config.inflation, run.config.num_frames)
        self.windows = options.windows and can
        self.count = len(GRAPHS) + self.windows

    def export(self) -> dict[str, GraphEntry]:
        """Export and check them one after the other; each gets an input that follows from the one before."""
        states = self._export_text_encoder()
        latents = self._export_vae()
        gc.collect()
        self._export_unets(states, latents)
        return self.entries

    # -- the parts -----------------------------------------------------------------------------------------------

    def _export_text_encoder(self) -> np.ndarray:
        """The text states of the run's caption, ``(1, s, d)``."""
        config = self.base.configs["text_encoder"]
        return self._export(
            graphs.TextEncoderGraph(self.base.load_text_encoder()),
            graphs.text_encoder_contract(
                num_tokens=self.tokenizer.model_max_length,
                width=int(config["hidden_size"]),
                vocabulary=int(config["vocab_size"]),
            ),
            input_ids=self.tokenizer(self.run.config.prompt),
        )

    def _export_vae(self) -> np.ndarray:
        """The latents of a picture, ``(1, c, h, w)``, not scaled."""
        config, base = self.run.config, self.base
        channels = int(base.configs["vae"]["latent_channels"])
        size = {
            "channels": channels,
            "num_frames": config.num_frames,
            "height": config.height,
            "width": config.width,
            "factor": base.vae_scale_factor,
        }
        posterior = self._export(
            graphs.VaeEncoderGraph(base.load_vae()),
            graphs.vae_encoder_contract(**size),
            sample=picture(config.height, config.width),
        )
        latents = posterior[:, :channels]  # (1, c, h, w)
        self._export(
            graphs.VaeDecoderGraph(base.load_vae()), graphs.vae_decoder_contract(**size), latent_sample=latents
        )
        return latents

    def _export_unets(self, states: np.ndarray, latents: np.ndarray) -> None:
        """The U-Net, the same for windows if there is one, and the base's own values of the tuned weights."""
        config, base = self.run.config, self.base
        unet = inflate(base.load_unet(), config.inflation, config.num_frames).eval()
        untuned = untuned_weights(unet)
        load_tuned_weights(unet, self.run.tuned_path)
        size = {
            "num_frames": config.num_frames,
            "height": config.height // base.vae_scale_factor,
            "width": config.width // base.vae_scale_factor,
        }
        residuals = ()
        if self.options.control:
            config_of = dict(unet.config)
            residuals = graphs.residual_specs(config_of["block_out_channels"], config_of["layers_per_block"], **size)
        contract = graphs.unet_contract(
            channels=int(base.configs["unet"]["in_channels"]),
            **size,
            num_tokens=self.tokenizer.model_max_length,
            text_width=int(base.configs["text_encoder"]["hidden_size"]),
            num_timesteps=base.schedule.num_train_timesteps,
        )
        feeds = self._noised(latents) | {"encoder_hidden_states": states}
        windowed = self._windowed(unet, contract, feeds, size["height"], size["width"])
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

    def _noised(self, latents: np.ndarray) -> dict[str, np.ndarray]:
        """A still video of these latents, noised, ``(1, c, f, h, w)``, and its timestep, ``()``."""
        schedule = self.base.schedule
        video = np.repeat(latents[:, :, None], self.run.config.num_frames, axis=2)
        video *= np.float32(self.base.scaling_factor)
        noise = np.random.default_rng(0).standard_normal(video.shape, dtype=np.float32)
        timestep = schedule.num_train_timesteps // 3  # 333 has no exact bfloat16
        return {"sample": schedule.add_noise(video, noise, timestep), "timestep": np.asarray(timestep)}

    # -- one graph -----------------------------------------------------------------------------------------------

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
        precision = graph_precision(contract.name, self.options.precision)
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
            inputs=tuple(map(TensorEntry.of, contract.inputs)),
            outputs=tuple(map(TensorEntry.of, contract.outputs)),
            parity_max_abs=check_parity(reference, contract, graph.path) if self.options.parity else None,
            precision=contract.precision,  # type: ignore[arg-type]
            kept=tuple(kept),
            axes=contract.axes,
            tuned=graph.tuned,
        )
        report(
            self.callback,
            StepProgress(
                "export",
                len(self.entries),
                self.count,
                item=Item(kind="graph", index=len(self.entries), count=self.count, name=contract.name),
            ),
        )


def _small(spec: TensorSpec) -> np.ndarray:
    """A ControlNet's residual as it might be, for one video; seeded by its name."""
    shape = [1 if isinstance(axis, str) else axis for axis in spec.shape]
    rng = np.random.default_rng(list(spec.name.encode()))
    return 0.1 * rng.standard_normal(shape, dtype=np.float32)
