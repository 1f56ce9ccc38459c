"""Tuning and exporting as two steps of a longer command: each with a headline and progress bars."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from tav_sdk.cli.console import say, stages

if TYPE_CHECKING:
    from tav_sdk.export import ExportOptions
    from tav_sdk.training import TuneConfig


def tune_as_step(config: TuneConfig, *, mark: str, overwrite: bool) -> None:
    """Tune, with progress.

    Args:
        config: as for :func:`tav_sdk.training.tune`.
        mark: which step it is, such as ``1/4``.
        overwrite: replace a run that is there.

    Raises:
        TavError: as :func:`tav_sdk.training.tune`.
    """
    from tav_sdk.training import tune

    with stages() as show:
        say(f"tune {config.base} on {Path(config.video).name}: {config.prompt}", mark=mark, style="bold")
        tune(config, callback=show, overwrite=overwrite)


def export_as_step(
    run: Path, bundle: Path, *, mark: str, overwrite: bool, options: ExportOptions | None = None
) -> None:
    """Export a run, with progress.

    Args:
        run: a finished one.
        bundle: the folder to write.
        mark: which step it is.
        overwrite: replace a bundle that is there.
        options: as for :func:`tav_sdk.export.export_bundle`.

    Raises:
        TavError: as :func:`tav_sdk.export.export_bundle`.
    """
    from tav_sdk.export import export_bundle

    with stages() as show:
        say("export", mark=mark, style="bold")
        given: dict[str, Any] = {} if options is None else {"options": options}
        export_bundle(run, bundle, overwrite=overwrite, callback=show, **given)
