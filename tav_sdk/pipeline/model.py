"""What one inversion or edit runs on, from its start to its end."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from tav_sdk.bundle.bundle import Bundle
from tav_sdk.bundle.layout import TEXT_ENCODER, TOKENIZER
from tav_sdk.bundle.manifest import Manifest
from tav_sdk.bundle.tokenizer import Tokenizer
from tav_sdk.diffusion.schedule import DDIMSchedule
from tav_sdk.pipeline.engines import GraphEngines
from tav_sdk.pipeline.inversion_cache import InversionCache
from tav_sdk.pipeline.unet import GraphUNet
from tav_sdk.pipeline.vae import VAE


@dataclass(frozen=True, kw_only=True)
class TunedModel:
    """A base on its engines with one clip's tuned weights; it never changes, and threads may share it.

    Attributes:
        engines: what runs the graphs.
        schedule: the base's noise schedule.
        tokenizer: of prompts.
        vae: encodes and decodes.
        unet: predicts the noise.
        inversions: where inversions and unfinished loops are kept; ``None``: nowhere.
    """

    engines: GraphEngines
    schedule: DDIMSchedule
    tokenizer: Tokenizer
    vae: VAE
    unet: GraphUNet
    inversions: InversionCache | None

    @classmethod
    def on(cls, engines: GraphEngines, *, inversions: InversionCache | None) -> TunedModel:
        """The model that those engines run."""
        return cls(
            engines=engines,
            schedule=engines.bundle.schedule,
            tokenizer=Tokenizer.from_folder(engines.bundle.folder / TOKENIZER),
            vae=VAE(engines),
            unet=GraphUNet(engines),
            inversions=inversions,
        )

    def with_engines(self, engines: GraphEngines) -> TunedModel:
        """The same base with other weights: its tokenizer and its schedule are not read again."""
        return replace(self, engines=engines, vae=VAE(engines), unet=GraphUNet(engines))

    @property
    def bundle(self) -> Bundle:
        """The bundle whose weights are in use."""
        return self.engines.bundle

    @property
    def manifest(self) -> Manifest:
        """What that bundle holds."""
        return self.engines.manifest

    def encode_prompt(self, prompt: str) -> np.ndarray:
        """Text states of a prompt, ``(1, s, d)`` float32; a prompt that is too long is cut with a warning."""
        return self.engines.run(TEXT_ENCODER, input_ids=self.tokenizer(prompt))["last_hidden_state"]

    def resumes(self, num_frames: int) -> bool:
        """Whether a loop goes on where an interrupted one stopped: over a long video, if anything is kept on disk."""
        return self.inversions is not None and num_frames != self.manifest.num_frames
