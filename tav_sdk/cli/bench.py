"""``tav bench``"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tav_sdk.cli.console import say, write
from tav_sdk.engines.select import CHOICES
from tav_sdk.errors import InputError

if TYPE_CHECKING:
    from tav_sdk.bundle.manifest import Manifest

FORMAT = 1
SLOWER = 1.15


def bench(
    bundle: Annotated[Path, typer.Argument(help="A bundle folder written by tav export.")],
    run: Annotated[
        Path | None, typer.Option(help="The run that it was exported from: measure PyTorch beside the engines.")
    ] = None,
    video: Annotated[
        Path | None, typer.Option(help="A clip: also measure whole edits, each in a process of its own.")
    ] = None,
    engine: Annotated[
        list[str] | None,
        typer.Option(help=f"{', '.join(CHOICES[1:])}; repeat it.", show_default="all that work here"),
    ] = None,
    rounds: Annotated[int, typer.Option(help="How often everything is measured, in turn.", min=1, max=1000)] = 5,
    steps: Annotated[
        int | None,
        typer.Option(help="DDIM steps of an edit, and of its inversion.", show_default="the base's", min=1, max=1000),
    ] = None,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write all that was measured to this file.")] = None,
    against: Annotated[
        Path | None,
        typer.Option(help="A file that --json wrote: leave with 1 if a step has become slower than the others have."),
    ] = None,
    slower: Annotated[
        float, typer.Option(help="With --against: how many times slower is a regression.", min=1.0)
    ] = SLOWER,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the file --json.")] = False,
) -> None:
    """Measure engines against each other, and against PyTorch, on one bundle: same weights, same inputs, in turn.

    First a step of the U-Net: seconds, how many times as fast as torch SDPA (with --run) or as the fastest, the share
    of this machine's floor, and the difference of the results. The floor is what the graph's operations take at the
    speed of this machine's fastest matrix product, or its bytes at the speed of a copy, whichever is more. With --video
    then whole edits, stage by stage, with peak memory and the time from the start of the process to the first step.

    [bold]Examples[/]

      tav bench bundles/skiing

      tav bench bundles/skiing --run runs/skiing --video clip.mp4 --json bench.json

      tav bench bundles/skiing --engine onnxruntime-cpu --engine openvino-cpu --rounds 9

      tav bench bundles/skiing --run runs/skiing --against bench.json
    """
    from tav_sdk.bundle.bundle import Bundle
    from tav_sdk.export.bench.candidates import Candidates
    from tav_sdk.export.bench.compare import changes, check_comparable
    from tav_sdk.export.bench.measure import machine
    from tav_sdk.export.bench.processes import time_edits
    from tav_sdk.export.bench.report import report_edits, report_steps
    from tav_sdk.export.bench.steps import time_steps
    from tav_sdk.files import write_text
    from tav_sdk.output_paths import check_new_file

    former = None if against is None else _read(against)
    if json_file is not None:
        check_new_file(json_file, overwrite=overwrite)
    if steps is not None and video is None:
        raise InputError("--steps counts the steps of whole edits, which need a clip: give --video as well")
    opened = Bundle(bundle)
    candidates = Candidates(opened, engine, run)
    if former is not None:
        check_comparable(former, candidates)
    if video is not None:
        _check_video(video, opened.manifest)

    result: dict[str, Any] = {"format": FORMAT, "machine": machine(), "bundle": candidates.facts}

    def keep() -> None:
        if json_file is not None:
            write_text(json_file, json.dumps(result, indent=2) + "\n")

    result["step"] = time_steps(candidates, rounds=rounds)
    keep()  # edits take much longer
    for text in report_steps(result):
        write(text)
    if video is not None:
        count = opened.manifest.num_inference_steps if steps is None else steps
        result["edit"] = time_edits(candidates, video, steps=count, rounds=rounds)
        keep()
        write("\n" + report_edits(result["edit"]))
    if json_file is not None:
        say(f"to {json_file}", mark="written")
    if former is None:
        return
    worse = False
    for name, change in changes(result, former).items():
        worse |= change > slower
        mark = "slower:" if change > slower else ""
        say(
            f"a U-Net step on {name} takes {change:.2f} times as long as it did, beside the others",
            mark=mark,
            style="bold red",
        )
    if worse:
        raise typer.Exit(1)
    say(f"than in {against}", mark=f"no step has become {slower:g} times slower")


def _check_video(video: Path, manifest: Manifest) -> None:
    """Read the clip once, so that a bad one is found out now."""
    from tav_sdk.video.clip import read_video

    tuned = manifest.clip
    read_video(
        video,
        num_frames=manifest.num_frames,
        start=tuned.start,
        stride=tuned.stride,
        size=(manifest.height, manifest.width),
    )


def _read(path: Path) -> dict[str, Any]:
    from tav_sdk.reading import read_json

    former = read_json(path, error=InputError, advice="give --against a file that tav bench --json wrote")
    if not isinstance(former, dict) or former.get("format") != FORMAT or not {"step", "bundle"} <= former.keys():
        raise InputError(f"--against {path} was not written by tav bench --json, or by another version of it")
    return former
