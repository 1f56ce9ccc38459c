"""The U-Net of a bundle as the loops take it: for a window, and over videos of any length."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from tav_sdk.bundle.layout import UNET, WINDOWED_UNET
from tav_sdk.errors import InputError
from tav_sdk.pipeline.controlnet import Control, no_residuals
from tav_sdk.pipeline.engines import GraphEngines
from tav_sdk.pipeline.windows import BlendedUNet, WindowedUNet, WindowGraph, WindowReport, blended_runs
from tav_sdk.progress import UNet


class GraphUNet:
    """The U-Net on a bundle's graphs.

    Args:
        engines: what runs them.
    """

    def __init__(self, engines: GraphEngines) -> None:
        self._engines = engines

    @property
    def exact_long_video(self) -> bool:
        """Whether videos longer than the bundle's clips are made exactly, as in one pass; otherwise approximately."""
        given = self._engines.given
        return WINDOWED_UNET in given or (WINDOWED_UNET in self._engines.manifest.graphs and UNET not in given)

    @property
    def long_video_note(self) -> str:
        """Why longer videos are approximate; empty where they are exact."""
        if self.exact_long_video:
            return ""
        options = self._engines.manifest.inflation
        if options["temporal_mask"] == "none" or options["group_norm"] == "video":
            return "its frames depend on later ones (temporal_mask none or group_norm video)"
        if self._engines.manifest.precision == "int8" or options["attention"] in ("causal", "full"):
            return "a U-Net in int8, or with attention over all frames, cannot go on from window to window"
        return "it was exported without windows, or by an older version: export its run again"

    def __call__(
        self,
        sample: np.ndarray,
        timestep: np.ndarray,
        encoder_hidden_states: np.ndarray,
        residuals: Mapping[str, np.ndarray] | None = None,
    ) -> np.ndarray:
        """Predict the noise of one window.

        Args:
            sample: ``(b, c, f, h, w)`` float32, f the bundle's frames.
            timestep: ``()`` int64.
            encoder_hidden_states: ``(b, s, d)`` float32.
            residuals: a ControlNet's, by name; ``None`` changes nothing.

        Returns:
            ``(b, c, f, h, w)`` float32.
        """
        if residuals is None:
            residuals = no_residuals(self._engines.bundle.residuals, len(sample))
        inputs = {"sample": sample, "timestep": timestep, "encoder_hidden_states": encoder_hidden_states}
        return self._engines.run(UNET, **inputs, **residuals)["out_sample"]

    def graph_name(self, num_frames: int) -> str:
        """The graph that runs for a video of so many frames."""
        longer = num_frames != self._engines.manifest.num_frames
        return WINDOWED_UNET if longer and self.exact_long_video else UNET

    def over(self, num_frames: int, control: Control | None = None, reported: WindowReport | None = None) -> UNet:
        """The U-Net for a video of so many frames.

        Args:
            num_frames: of the video.
            control: what steers it; for the bundle's own number of frames only.
            reported: called after each window of a longer video.

        Raises:
            InputError: no such video can be made, or not with a control.
            BundleError: the control does not fit the bundle.
        """
        window = self._engines.manifest.num_frames
        if num_frames == window:
            if control is None:
                return self
            control.controlnet.check_fits(self._engines.bundle)
            return control.of(self)
        if control is not None:
            raise InputError(
                f"must be left out, got {num_frames} frames: control steers videos of the bundle's {window} frames",
                field="control",
            )
        if self.exact_long_video:
            return WindowedUNet(self.window_graph(), reported)
        blended_runs(num_frames, window - 1)  # its errors now, not after the VAE
        return BlendedUNet(self, window, reported)

    def window_graph(self) -> WindowGraph:
        """The graph of one window of a longer video."""
        run = self._engines.run
        return WindowGraph(lambda feeds: run(WINDOWED_UNET, **feeds), self._engines.inputs(WINDOWED_UNET))
