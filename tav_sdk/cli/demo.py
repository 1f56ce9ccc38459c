"""``tav demo``"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tav_sdk.cli.base_options import BASE_HELP
from tav_sdk.cli.console import say, stages
from tav_sdk.cli.made_bundle import export_as_step, tune_as_step
from tav_sdk.errors import InputError, PromptError
from tav_sdk.files import write_text
from tav_sdk.output_paths import check_apart, check_new
from tav_sdk.pocket import POCKET, sample_clip
from tav_sdk.version import __version__

if TYPE_CHECKING:
    from tav_sdk.request import EditRequest

SAMPLE = "car-road"
OWN_EDITS = ("{}, pixel art style", "{}, pencil sketch style", "{} in the snow", "{} at night")
REPORT, CLIP, RUN, BUNDLE, EDITS = "report.json", "clip", "run", "bundle", "edits"


def demo(
    out: Annotated[Path, typer.Option(help="The folder to write.")] = Path("demo"),
    sample: Annotated[
        str | None,
        typer.Option(
            help="A clip of the package: car-road, bus-beach, pig-grass, elephant-desert, horse-snow, penguin-snow, "
            "tractor-grass or cat-night.",
            show_default=SAMPLE,
        ),
    ] = None,
    video: Annotated[Path | None, typer.Option(help="A clip of yours instead.", show_default="a sample")] = None,
    prompt: Annotated[
        str | None, typer.Option(help="What your clip shows, such as 'a man is skiing'.", show_default="the sample's")
    ] = None,
    edit: Annotated[
        list[str] | None,
        typer.Option(
            "--edit",
            help="A prompt to edit with; repeat it.",
            show_default="one of each kind; for your clip two styles, snow and night",
        ),
    ] = None,
    base: Annotated[str, typer.Option(help=BASE_HELP)] = POCKET,
    num_frames: Annotated[int, typer.Option("--frames", "--num-frames", help="Frames taken from the clip.")] = 8,
    start: Annotated[int, typer.Option(help="Index of the first frame taken.")] = 0,
    stride: Annotated[int, typer.Option(help="Distance between frames taken.")] = 1,
    num_train_steps: Annotated[
        int | None, typer.Option(help="Tuning steps.", show_default="the base's; Pocket 150")
    ] = None,
    num_inference_steps: Annotated[
        int | None,
        typer.Option(help="DDIM steps of inversion and of sampling.", show_default="the base's: 50, Pocket 25"),
    ] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace clip, run, bundle, edits and report in --out.")
    ] = False,
) -> None:
    """The whole way on one clip: tune, export, invert, edit and evaluate.

    The base model is Pocket, which ships with the package: small, and at home in a small world of its own. On a sample
    clip this takes some minutes on two CPU cores. For a clip of yours give a Stable Diffusion base (--base).

    [bold]Examples[/]

      tav demo --out demo

      tav demo --sample pig-grass --out pig

      tav demo --video mine.mp4 --prompt "a dog is running on the grass" --edit "a cat is running" --out mine
    """
    from tav_sdk.request import EditRequest, SampleOptions

    job = _job(sample, video, prompt, edit)
    check_new(out, overwrite=overwrite)
    check_apart(out, job.clip)
    request = EditRequest(
        prompts=tuple(job.prompts), sample=SampleOptions(num_inference_steps=num_inference_steps), reconstruct=True
    )
    if video is not None and base == POCKET:
        say(
            "Pocket knows only its own small world; for a real clip give a Stable Diffusion --base",
            mark="note:",
            style="yellow",
        )

    from tav_sdk.training import TuneConfig

    config = TuneConfig(
        base=base,
        video=str(job.clip),
        prompt=job.caption,
        out=str(out / RUN),
        num_frames=num_frames,
        start=start,
        stride=stride,
    )
    if num_train_steps is not None:
        config = config.replace(num_train_steps=num_train_steps)
    clock = _Clock()
    with _said_where(out):
        with clock("tune"):
            tune_as_step(config, mark="1/4", overwrite=overwrite)
        (out / REPORT).unlink(missing_ok=True)  # a former demo's, of another run
        shutil.copyfile(job.clip, out / f"{CLIP}{job.clip.suffix}")
        with clock("export"):
            export_as_step(out / RUN, out / BUNDLE, mark="2/4", overwrite=overwrite)
        with clock("edit"):
            say("invert and edit", mark="3/4", style="bold")
            _edit(request, out, job, overwrite=overwrite)
        with clock("evaluate"):
            say("evaluate", mark="4/4", style="bold")
            _evaluate(out)
        tuning = {key: getattr(config, key) for key in ("num_frames", "start", "stride", "height", "width")}
        tuning |= {key: getattr(config, key) for key in ("num_train_steps", "learning_rate", "seed")}
        report = {
            "version": __version__,
            "base": base,
            "clip": job.clip.name,
            "caption": job.caption,
            "tuning": tuning,
            **_report(out, job.kinds),
            "seconds": {**clock.seconds, "total": round(sum(clock.seconds.values()), 1)},
        }
        write_text(out / REPORT, json.dumps(report, indent=2, ensure_ascii=False) + "\n")
    minutes = report["seconds"]["total"] / 60
    say(
        f"in {minutes:.1f} min; the pictures: {out / EDITS / 'sheet.png'}, the report: {out / REPORT}",
        mark="done",
    )
    say(f"next: tav edit {out / BUNDLE} --video {out / CLIP}{job.clip.suffix} --prompt PROMPT --out OUT")


@dataclass(frozen=True, kw_only=True)
class _Job:
    """The clip, its caption, and what to edit it with: kind and prompt of each edit."""

    clip: Path
    caption: str
    prompts: list[str]
    kinds: list[str]


def _job(sample: str | None, video: Path | None, prompt: str | None, edit: list[str] | None) -> _Job:
    if edit and not all(words.strip() for words in edit):
        raise PromptError("an --edit is empty; say what the new video shows")
    if video is None:
        if prompt is not None:
            raise InputError(
                "--prompt is what a clip of yours shows; give it with --video, or edit a sample with --edit"
            )
        chosen = sample_clip(sample or SAMPLE)
        edits = [("edit", words) for words in edit] if edit else list(chosen.edits.items())
        clip, caption = chosen.path, chosen.caption
    else:
        if sample is not None:
            raise InputError("give --sample or --video, not both")
        if prompt is None:
            raise InputError("give --prompt, what the clip shows, such as 'a man is skiing'; tuning needs it")
        edits = [("edit", words) for words in edit or [words.format(prompt) for words in OWN_EDITS]]
        clip, caption = video, prompt
    kinds, prompts = zip(*edits, strict=True)
    return _Job(clip=clip, caption=caption, prompts=list(prompts), kinds=list(kinds))


def _edit(request: EditRequest, out: Path, job: _Job, *, overwrite: bool) -> None:
    from tav_sdk.edits import make
    from tav_sdk.pipeline import load

    with load(out / BUNDLE) as pipeline, stages() as show:
        make(request, pipeline, out / EDITS, video=job.clip, overwrite=overwrite, callback=show)


def _evaluate(out: Path) -> None:
    from tav_sdk.cli.evaluate import evaluate

    evaluate(out / EDITS)


def _report(out: Path, kinds: list[str]) -> dict[str, Any]:
    """Settings of editing, and a row for each edit."""
    from tav_sdk.edits import read_record

    settings = read_record(out / EDITS).settings
    scores = json.loads((out / EDITS / "scores.json").read_text(encoding="utf-8"))
    rows = [{"kind": kind, **_rounded(row)} for kind, row in zip(kinds, scores["videos"], strict=True)]
    kept = ("engine", "guidance_scale", "inversion_prompt", "num_inversion_steps", "num_inference_steps")
    return {
        "editing": {key: settings[key] for key in kept},
        "edits": rows,
        "means": _rounded(scores["means"]),
        "reconstruction_psnr": _rounded(scores)["reconstruction_psnr"],
        "clip_of_the_scores": scores["clip"]["name"],
        "definitions_version": scores["definitions_version"],
        "sheet": f"{EDITS}/sheet.png",
    }


def _rounded(values: Mapping[str, Any]) -> dict[str, Any]:
    return {key: round(value, 3) if isinstance(value, float) else value for key, value in values.items()}


@contextmanager
def _said_where(out: Path) -> Iterator[None]:
    """An interrupt says what is left."""
    try:
        yield
    except KeyboardInterrupt:
        if out.is_dir() and any(out.iterdir()):
            raise KeyboardInterrupt(
                f"what was finished is in {out}; the same command with --overwrite starts again"
            ) from None
        raise


class _Clock:
    """Seconds of each stage."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def __call__(self, stage: str) -> Iterator[None]:
        began = time.perf_counter()
        yield
        self.seconds[stage] = round(time.perf_counter() - began, 1)
