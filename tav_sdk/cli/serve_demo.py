"""What ``tav serve --demo`` serves: one of Pocket's sample clips, tuned and exported once."""

from __future__ import annotations

import importlib.util
import shutil
from pathlib import Path

from filelock import FileLock

from tav_sdk.cli.console import say
from tav_sdk.cli.made_bundle import export_as_step, tune_as_step
from tav_sdk.errors import MissingExtraError, OutputError
from tav_sdk.pocket import POCKET, sample_clip

NAME = "car-road"
"""The sample, and the model's id."""
NUM_FRAMES = 8
NEEDS = {
    "torch": "training",
    "diffusers": "training",
    "transformers": "training",
    "onnx": "export",
    "onnxscript": "export",
}
"""Modules that tuning and exporting need, and the extra that brings each."""


def demo_bundles(state: Path, *, num_train_steps: int | None = None) -> Path:
    """A folder with one bundle and its clip beside it, made if it is not there.

    Args:
        state: the server's folder; the bundles lie in ``demo/bundles`` in it.
        num_train_steps: by default the base's.

    Returns:
        The folder of bundles. The model's name is :data:`NAME`.

    Raises:
        MissingExtraError: the extras ``training`` and ``export`` are needed and not installed.
        OutputError: the folder cannot be written.
    """
    folder = state / "demo"
    bundles = folder / "bundles"
    if _is_whole(bundles):
        return bundles
    if missing := [name for name in NEEDS if importlib.util.find_spec(name) is None]:
        raise MissingExtraError("tav serve --demo tunes a clip first, which", "server,training,export", missing[0])
    try:
        state.mkdir(parents=True, exist_ok=True, mode=0o700)
        bundles.mkdir(parents=True, exist_ok=True)
        with FileLock(folder / "lock", mode=0o600):
            if not _is_whole(bundles):  # another start may have made it meanwhile
                _make(folder, bundles, num_train_steps)
    except OSError as error:
        reason = error.strerror or str(error)
        raise OutputError(f"the demo cannot be written to {folder}: {reason}; choose another --state") from error
    return bundles


def _is_whole(bundles: Path) -> bool:
    """Whether the demo was made to its end: the bundle gets its name last."""
    return (bundles / NAME / "manifest.json").is_file() and (bundles / f"{NAME}.mp4").is_file()


def _make(folder: Path, bundles: Path, num_train_steps: int | None) -> None:
    from tav_sdk.export import ExportOptions
    from tav_sdk.training import TuneConfig

    sample = sample_clip(NAME)
    run, bundle = folder / "run", folder / "bundle"
    say("the demo is made first, a minute or two; the next start finds it", mark="note:", style="yellow")
    config = TuneConfig(base=POCKET, video=str(sample.path), prompt=sample.caption, out=str(run), num_frames=NUM_FRAMES)
    if num_train_steps is not None:
        config = config.replace(num_train_steps=num_train_steps)
    tune_as_step(config, mark="1/2", overwrite=True)
    # Without the graph of longer videos, which takes as long as the rest.
    export_as_step(run, bundle, mark="2/2", overwrite=True, options=ExportOptions(windows=False, quality=False))
    shutil.copyfile(sample.path, bundles / f"{NAME}.mp4")
    shutil.rmtree(bundles / NAME, ignore_errors=True)
    bundle.rename(bundles / NAME)
    shutil.rmtree(run, ignore_errors=True)
