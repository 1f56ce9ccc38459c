"""What is asked for, compared with what a bundle takes."""

from __future__ import annotations

from typing import Any

import numpy as np

from tav_sdk.bundle.manifest import Manifest
from tav_sdk.diffusion.inversion import Inversion
from tav_sdk.errors import BundleError, InputError
from tav_sdk.video.clip import Clip
from tav_sdk.words import brief


def check_clip(clip: Any, manifest: Manifest, *, exact_long_video: bool) -> None:
    """Compare a clip with what a bundle takes.

    Args:
        clip: what is to be inverted.
        manifest: of the bundle.
        exact_long_video: whether the pipeline takes any number of frames; otherwise it takes the bundle's or more.

    Raises:
        InputError: it is no clip, or of another size, or too short.
    """
    if not isinstance(clip, Clip):
        raise InputError(
            f"must be a tav_sdk.Video, got {type(clip).__name__}; wrap frames: Video(frames=, fps=)", field="clip"
        )
    want = (manifest.num_frames, manifest.height, manifest.width)
    got = (clip.num_frames, clip.height, clip.width)
    if got[1:] != want[1:] or (got[0] < want[0] and not exact_long_video):
        frames = "any number of frames" if exact_long_video else f"{want[0]} frames or more"
        raise InputError(
            f"must have {frames} of {want[1]}x{want[2]} pixels (height x width), as the bundle takes them, got "
            f"{got[0]} frames of {got[1]}x{got[2]}; read the clip with size={want[1:]}, or tune and export at its size",
            field="clip",
        )


def check_inversion(inversion: Any) -> None:
    """Check that something is an inversion.

    Raises:
        InputError: it is not.
    """
    if not isinstance(inversion, Inversion):
        raise InputError(
            f"must be a tav_sdk.Inversion, as Pipeline.invert gives, got {brief(inversion)}", field="inversion"
        )


def check_latents(latents: Any, manifest: Manifest, *, exact_long_video: bool) -> None:
    """Compare latents with what a bundle's U-Net takes, ``(1, c, f, h, w)`` float32.

    Raises:
        InputError: they are of another shape, such as those of another bundle's inversion.
    """
    want, got = manifest.latents_shape, np.shape(latents)
    if len(got) != 5 or (*got[:2], *got[3:]) != (*want[:2], *want[3:]) or (got[2] < want[2] and not exact_long_video):
        raise InputError(
            f"must have latents of the shape {list(want)}, as the bundle takes them, got {list(got)}; invert the clip "
            "with this bundle",
            field="inversion",
        )


def check_window(window: int | None, manifest: Manifest) -> None:
    """Check that a window is the bundle's; ``None`` is any.

    Raises:
        InputError: it is not.
    """
    if window not in (None, manifest.num_frames):
        raise InputError(
            f"must be {manifest.num_frames}, the frames that the bundle's graphs take at a time, got {window}; for "
            "another window tune with as many frames, and export",
            field="window",
        )


def check_takes_control(manifest: Manifest) -> None:
    """Check that a bundle's U-Net takes a ControlNet's residuals.

    Raises:
        BundleError: it was exported without control.
    """
    if not manifest.residuals:
        raise BundleError("the bundle's U-Net takes no control; export its run again with control")
