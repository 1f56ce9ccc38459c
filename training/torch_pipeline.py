"""The SDK's pipeline on PyTorch modules: edits by a base and an inflated U-Net that were never exported."""

# diffusers annotates loosely:
# pyright: reportAttributeAccessIssue=false, reportArgumentType=false

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from torch import Tensor, nn

from tav_sdk.bundle.bundle import Bundle
from tav_sdk.bundle.graph_folder import file_entries
from tav_sdk.bundle.layout import (
    FORMAT_VERSION,
    GRAPH_FILE,
    GRAPHS,
    TEXT_ENCODER,
    UNET,
    VAE_DECODER,
    VAE_ENCODER,
)
from tav_sdk.bundle.manifest import GraphEntry, Manifest, TensorEntry, write_manifest
from tav_sdk.engines.base import Engine, TensorSpec
from tav_sdk.pipeline.pipeline import Pipeline
from tav_sdk.training.base.bundle_parts import base_entries, write_base_files
from tav_sdk.training.base.model import PretrainedBase
from tav_sdk.training.torch_engine import TorchEngine
from tav_sdk.training.unet.video_unet import VideoUNet


@contextlib.contextmanager
def torch_pipeline(
    base: PretrainedBase, unet: VideoUNet, *, prompt: str, height: int, width: int, fps: float
) -> Iterator[Pipeline]:
    """A pipeline whose four graphs are modules; it has the base's recommended steps, guidance and inversion.

    The U-Net is shared, not copied: weights that are loaded into it count from the next call on. It runs where it is,
    text encoder and VAE on the CPU. No inversion is kept in the cache.

    Args:
        base: gives the text encoder, the VAE, the tokenizer and the schedule.
        unet: made by :func:`tav_sdk.training.inflate` from the base's U-Net; its number of frames is the pipeline's.
        prompt: the caption of the clip that it was tuned on.
        height: of the frames, in pixels.
        width: of the frames, in pixels.
        fps: frames per second of that clip, and of what is generated.
    """
    vae = base.load_vae().requires_grad_(False)
    text_encoder = base.load_text_encoder().requires_grad_(False)
    specs = _graph_specs(base, unet, height, width)
    modules: dict[str, nn.Module] = {
        TEXT_ENCODER: _Called(text_encoder, lambda input_ids: text_encoder(input_ids)[0]),
        VAE_ENCODER: _Called(vae, lambda sample: vae.encode(sample).latent_dist.parameters),
        VAE_DECODER: _Called(vae, lambda latents: vae.decode(latents).sample),
        UNET: unet,
    }
    engines: dict[str, Engine] = {name: TorchEngine(modules[name], name, *specs[name]) for name in GRAPHS}
    with tempfile.TemporaryDirectory(prefix="tav-") as folder:
        facts = {"prompt": prompt, "num_frames": unet.num_frames, "height": height, "width": width}
        _write_bundle(Path(folder), base, unet, specs, facts, fps)
        with Pipeline(Bundle(folder, verify=False), engines=engines, cache=False) as pipeline:
            yield pipeline


def unet_engine(base: PretrainedBase, unet: VideoUNet, *, height: int, width: int) -> TorchEngine:
    """The U-Net alone, as :func:`torch_pipeline` runs it; ``height`` and ``width`` in pixels."""
    return TorchEngine(unet, UNET, *_graph_specs(base, unet, height, width)[UNET])


class _Called(nn.Module):
    """A module whose ``forward`` calls another function of it."""

    def __init__(self, module: nn.Module, call: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.module = module
        self.call = call

    def forward(self, given: Tensor) -> Tensor:
        """What the call gives."""
        return self.call(given)


def _graph_specs(
    base: PretrainedBase, unet: VideoUNet, height: int, width: int
) -> dict[str, tuple[Sequence[TensorSpec], Sequence[TensorSpec]]]:
    """Inputs and outputs of each graph, with the names, dtypes and shapes of an export."""
    channels = int(base.configs["vae"]["latent_channels"])
    low = (height // base.vae_scale_factor, width // base.vae_scale_factor)
    tokens = base.load_tokenizer().model_max_length
    states = ("batch", tokens, int(base.configs["text_encoder"]["hidden_size"]))
    video = ("batch", channels, unet.num_frames, *low)
    pixels = TensorSpec("sample", "float32", ("frames", 3, height, width))
    return {
        TEXT_ENCODER: (
            [TensorSpec("input_ids", "int64", ("batch", tokens))],
            [TensorSpec("last_hidden_state", "float32", states)],
        ),
        VAE_ENCODER: ([pixels], [TensorSpec("latent_parameters", "float32", ("frames", 2 * channels, *low))]),
        VAE_DECODER: ([TensorSpec("latent_sample", "float32", ("frames", channels, *low))], [pixels]),
        UNET: (
            [
                TensorSpec("sample", "float32", video),
                TensorSpec("timestep", "int64", ()),
                TensorSpec("encoder_hidden_states", "float32", states),
            ],
            [TensorSpec("out_sample", "float32", video)],
        ),
    }


def _write_bundle(
    folder: Path,
    base: PretrainedBase,
    unet: VideoUNet,
    specs: Mapping[str, tuple[Sequence[TensorSpec], Sequence[TensorSpec]]],
    facts: Mapping[str, str | int],
    fps: float,
) -> None:
    """A bundle that has all that a pipeline reads but its graphs, which are empty files: engines are given for them."""
    for name in GRAPHS:
        (folder / name).mkdir()
        (folder / name / GRAPH_FILE).touch()
    write_base_files(base, folder)
    values = {
        "format_version": FORMAT_VERSION,
        "precision": "fp32",
        **facts,
        **base_entries(base),
        "inflation": unet.options.to_dict(),
        "graphs": {name: _entry(name, *specs[name]) for name in GRAPHS},
        "files": file_entries(folder),
        "base": {"name": base.record["name"], "sha256": base.record["sha256"]},
        "clip": {"fps": fps, "start": 0, "stride": 1},
        "tuned_sha256": "",
        "provenance": {"base": base.record},
    }
    write_manifest(folder, Manifest.model_validate(values))


def _entry(name: str, inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec]) -> GraphEntry:
    inside, outside = (
        tuple(TensorEntry(name=spec.name, dtype=spec.dtype, shape=spec.shape) for spec in specs)
        for specs in (inputs, outputs)
    )
    return GraphEntry(file=f"{name}/{GRAPH_FILE}", opset=0, inputs=inside, outputs=outside, parity_max_abs=None)
