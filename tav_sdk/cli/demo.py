"""``tav demo``"""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Annotated, Any

import typer

from tav_sdk.cli.console import say
from tav_sdk.errors import InputError
from tav_sdk.files import check_apart, check_new, write_text
from tav_sdk.pocket import POCKET, SampleClip, sample_clip

SAMPLE = "car-road"
OWN_EDITS = ("{}, pixel art style", "{}, pencil sketch style", "{} in the snow", "{} at night")
REPORT = "report.json"


def demo(
    out: Annotated[Path, typer.Option(help="The folder to write.")] = Path("demo"),
    sample: Annotated[
        str, typer.Option(help="A clip that ships with the package: car-road, bus-beach, pig-grass, ...")
    ] = SAMPLE,
    video: Annotated[Path | None, typer.Option(help="A clip of yours instead.", show_default="a sample")] = None,
    prompt: Annotated[
        str | None, typer.Option(help="What your clip shows, such as 'a man is skiing'.", show_default="the sample's")
    ] = None,
    edit: Annotated[
        list[str] | None, typer.Option("--edit", help="A prompt to edit with; repeat it.", show_default="four of them")
    ] = None,
    base: Annotated[str, typer.Option(help="The base model: pocket, or a folder in the diffusers layout.")] = POCKET,
    num_frames: Annotated[int, typer.Option("--frames", "--num-frames", help="Frames taken from the clip.")] = 8,
    stride: Annotated[int, typer.Option(help="Distance between frames taken.")] = 1,
    num_train_steps: Annotated[
        int | None, typer.Option(help="Tuning steps.", show_default="the base's; Pocket 150")
    ] = None,
    num_inference_steps: Annotated[int, typer.Option(help="DDIM steps of inversion and of sampling.")] = 50,
    overwrite: Annotated[
        bool, typer.Option("--overwrite/--no-overwrite", help="Replace a former demo in --out.")
    ] = True,
) -> None:
    """The whole way on one clip: tune, export, invert, edit and evaluate.

    The base model is Pocket, which ships with the package: small, and at home in a small world of its own. On a sample
    clip this takes some minutes on two CPU cores.

    [bold]Examples[/]

      tav demo --out demo

      tav demo --sample pig-grass --out demo

      tav demo --video mine.mp4 --prompt "a dog is running on the grass" --edit "a cat is running in the snow"
    """
    from tav_sdk.cli.edit import edit as run_edit
    from tav_sdk.cli.evaluate import evaluate
    from tav_sdk.cli.export import export
    from tav_sdk.cli.tune import tune

    chosen = None if video is not None else sample_clip(sample)
    clip, caption, prompts = _job(chosen, video, prompt, edit)
    kinds = list(chosen.edits) if chosen is not None and not edit else ["edit"] * len(prompts)
    check_apart(out, clip)
    for name in ("run", "bundle", "edits"):
        check_new(out / name, overwrite=overwrite)
    clock = _Clock()
    say(f"[bold]1/4[/] tune {base} on {clip.name}: {caption}")
    tune(
        base=base,
        video=clip,
        prompt=caption,
        out=out / "run",
        num_frames=num_frames,
        stride=stride,
        num_train_steps=num_train_steps,
        overwrite=overwrite,
    )
    clock.lap("tune")
    say("[bold]2/4[/] export")
    export(out / "run", out / "bundle", overwrite=overwrite)
    clock.lap("export")
    say("[bold]3/4[/] invert and edit")
    run_edit(
        out / "bundle",
        video=clip,
        out=out / "edits",
        prompt=prompts,
        num_inference_steps=num_inference_steps,
        num_inversion_steps=num_inference_steps,
        reconstruct=True,
        overwrite=overwrite,
    )
    clock.lap("edit")
    say("[bold]4/4[/] evaluate")
    evaluate(out / "edits", overwrite=True)
    clock.lap("evaluate")
    report = _report(out, {"base": base, "clip": clip.name, "caption": caption}, kinds, clock.seconds)
    write_text(out / REPORT, json.dumps(report, indent=2, ensure_ascii=False) + "\n")
    took = sum(clock.seconds.values())
    say(f"[green]done[/] in {took / 60:.1f} min; the pictures: {out / 'edits' / 'sheet.png'}")
    say(f"next: tav edit {out / 'bundle'} --video {clip} --prompt PROMPT --out OUT")


def _job(
    chosen: SampleClip | None, video: Path | None, prompt: str | None, edit: list[str] | None
) -> tuple[Path, str, list[str]]:
    """The clip, its caption, and what to edit it with."""
    if chosen is not None:
        if prompt is not None:
            raise InputError("--prompt is what a clip of yours shows; give --video too, or edit a sample with --edit")
        return chosen.path, chosen.caption, edit or list(chosen.edits.values())
    if video is None or prompt is None:
        raise InputError("give --prompt, what the clip shows, such as 'a man is skiing'; tuning needs it")
    return video, prompt, edit or [words.format(prompt) for words in OWN_EDITS]


def _report(out: Path, job: dict[str, Any], kinds: list[str], seconds: dict[str, float]) -> dict[str, Any]:
    edits = json.loads((out / "edits" / "edits.json").read_text(encoding="utf-8"))
    scores = json.loads((out / "edits" / "scores.json").read_text(encoding="utf-8"))
    edits["edits"] = [{"kind": kind, **entry} for kind, entry in zip(kinds, edits["edits"], strict=True)]
    return {**job, "seconds": seconds, "edits": edits, "scores": scores}


class _Clock:
    """Seconds of each stage."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._last = time.perf_counter()

    def lap(self, stage: str) -> None:
        now = time.perf_counter()
        self.seconds[stage], self._last = round(now - self._last, 1), now
