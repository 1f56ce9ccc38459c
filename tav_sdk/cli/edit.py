"""``tav edit`` and ``tav generate``"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tav_sdk.adapter import check_adapter_scale
from tav_sdk.cli.console import say, stages
from tav_sdk.cli.control import (
    ControlInversionOpt,
    ControlNetOpt,
    ControlOpt,
    ControlScaleOpt,
    check_control,
    open_control,
)
from tav_sdk.control import DETECTORS
from tav_sdk.engines.select import CHOICES
from tav_sdk.errors import InputError, PromptError
from tav_sdk.files import check_apart, check_new, new_folder
from tav_sdk.inversion import CORRECTIONS, check_correction, fast_steps
from tav_sdk.progress import Callback

if TYPE_CHECKING:
    from tav_sdk.pipeline import Pipeline
    from tav_sdk.video import Video

BundleArg = Annotated[Path, typer.Argument(help="A bundle folder written by tav export.")]
PromptOpt = Annotated[
    list[str] | None, typer.Option("--prompt", help="What the new video shows; repeat it for several videos.")
]
OutOpt = Annotated[Path, typer.Option(help="The folder to write the videos to.")]
NegativeOpt = Annotated[str, typer.Option(help="What the new video does not show.")]
StepsOpt = Annotated[int | None, typer.Option(help="DDIM steps of sampling.", show_default="the base's: 50, Pocket 25")]
GuidanceOpt = Annotated[
    float | None,
    typer.Option(help="Classifier-free guidance; at most 1 is none.", show_default="the base's: 12.5, Pocket 3.5"),
]
AdapterOpt = Annotated[
    float, typer.Option(help="How much of the tuning is used, 0 to 2: 0 is the base, 1 as it was tuned.")
]
FpsOpt = Annotated[float | None, typer.Option(help="Frame rate of the videos.", show_default="the clip's")]
FormatOpt = Annotated[str, typer.Option("--format", help="mp4, gif or webp.")]
EngineOpt = Annotated[str, typer.Option(help=f"{', '.join(CHOICES)}; tav doctor says which work here.")]
OverwriteOpt = Annotated[bool, typer.Option("--overwrite", help="Replace the whole folder --out, whatever is in it.")]


def edit(
    bundle: BundleArg,
    video: Annotated[Path, typer.Option(help="The clip to edit; resized and cropped to the bundle's size.")],
    out: OutOpt,
    prompt: PromptOpt = None,
    negative_prompt: NegativeOpt = "",
    num_inference_steps: StepsOpt = None,
    num_inversion_steps: Annotated[
        int | None, typer.Option(help="DDIM steps of inversion.", show_default="those of sampling")
    ] = None,
    fast: Annotated[
        bool,
        typer.Option(
            "--fast",
            help="Nearly the same edit in 0.37 of the U-Net's evaluations: an inversion of second order with half of "
            "the base's steps, a third of them for sampling.",
        ),
    ] = False,
    guidance_scale: GuidanceOpt = None,
    inversion_prompt: Annotated[
        str | None,
        typer.Option(
            help="Prompt to invert the clip with: '' as in the paper, or the clip's caption.",
            show_default="the base's: '', Pocket the caption",
        ),
    ] = None,
    correction: Annotated[
        str,
        typer.Option(
            help=f"What keeps edits near the clip: {', '.join(CORRECTIONS)}; negative-prompt inverts with the tuned "
            "clip's caption by default."
        ),
    ] = "none",
    adapter_scale: AdapterOpt = 1.0,
    control: ControlOpt = None,
    controlnet: ControlNetOpt = None,
    control_scale: ControlScaleOpt = None,
    control_inversion: ControlInversionOpt = False,
    seed: Annotated[
        int | None,
        typer.Option(help="Draw the clip's latents from the VAE's posterior with this seed.", show_default="its mean"),
    ] = None,
    start: Annotated[int | None, typer.Option(help="Index of the first frame.", show_default="as tuned")] = None,
    stride: Annotated[int | None, typer.Option(help="Distance between frames.", show_default="as tuned")] = None,
    fps: FpsOpt = None,
    file_format: FormatOpt = "mp4",
    engine: EngineOpt = "auto",
    no_cache: Annotated[
        bool, typer.Option("--no-cache", help="Invert anew, and do not keep the inversion; see tav cache.")
    ] = False,
    reconstruct: Annotated[
        bool, typer.Option("--reconstruct", help="Also sample with the clip's own caption, without guidance.")
    ] = False,
    overwrite: OverwriteOpt = False,
) -> None:
    """Edit a clip by text: DDIM inversion, then sampling with each prompt.

    Writes one video a prompt (00.mp4, 01.mp4, ...), source.mp4, sheet.png (all of them side by side) and edits.json;
    with --reconstruct also reconstruction.mp4, which tav evaluate compares with the source.

    [bold]Examples[/]

      tav edit bundles/skiing --video clip.mp4 --prompt "Spider Man is skiing on the beach, cartoon style" --out out

      tav edit bundles/skiing --video clip.mp4 --prompt "a panda is skiing" --prompt "skiing, pixel art" --out out

      tav edit bundles/skiing --video clip.mp4 --prompt "a panda is skiing" --reconstruct --out out

      tav edit bundles/skiing --video clip.mp4 --prompt "a panda is skiing" --fast --out out

      tav edit bundles/skiing --video clip.mp4 --prompt "a panda is skiing" --adapter-scale 0.7 --out out

      tav edit bundles/skiing --video clip.mp4 --prompt "a panda is skiing" --control pose.mp4 --controlnet
      controlnets/openpose --out out

      tav edit bundles/skiing --engine tensorrt-rtx --video clip.mp4 --prompt "a panda is skiing" --out out
    """
    prompts = _prompts(prompt)
    suffix = _suffix(file_format)
    _check_numbers(fps, seed)
    check_adapter_scale(adapter_scale)
    check_correction(correction)
    if correction == "negative-prompt" and negative_prompt:
        raise InputError(
            "--correction negative-prompt has the clip's caption in the negative prompt's place, got --negative-prompt "
            f"{negative_prompt!r}, too; leave one of them out"
        )
    if correction == "negative-prompt" and guidance_scale is not None and guidance_scale <= 1:
        raise InputError(
            "--correction negative-prompt acts through guidance, which --guidance-scale "
            f"{guidance_scale:g} switches off; leave one of them out"
        )
    if fast and correction == "direct":
        raise InputError("--fast takes another way than sampling back does, so --correction direct does not fit it")
    check_control(control, controlnet, control_scale, inversion=control_inversion)
    check_new(out, overwrite=overwrite)
    check_apart(out, bundle, video)

    from tav_sdk.pipeline import load
    from tav_sdk.video import read_video

    with (
        load(bundle, engine=engine, cache=not no_cache, adapter_scale=adapter_scale) as pipeline,
        new_folder(out, overwrite=overwrite) as folder,
    ):
        tuned = pipeline.manifest.provenance["tuning"]
        start = int(tuned["start"]) if start is None else start
        stride = int(tuned["stride"]) if stride is None else stride
        clip = read_video(
            video,
            num_frames=pipeline.manifest.num_frames,
            start=start,
            stride=stride,
            size=(pipeline.manifest.height, pipeline.manifest.width),
        )
        # Before the inversion, which takes its time.
        usual = fast_steps(pipeline.manifest.num_inference_steps)
        if fast and num_inference_steps is None:
            num_inference_steps = usual[1]
        num_inference_steps = _steps("--num-inference-steps", num_inference_steps, pipeline)
        if num_inversion_steps is None:
            num_inversion_steps = usual[0] if fast else num_inference_steps
        num_inversion_steps = _steps("--num-inversion-steps", num_inversion_steps, pipeline)
        if correction == "direct" and num_inversion_steps != num_inference_steps:
            raise InputError(
                f"--correction direct needs as many steps of inversion as of sampling, got {num_inversion_steps} and "
                f"{num_inference_steps}"
            )
        say(f"editing {video.name} on {pipeline.engine} ({pipeline.why})")
        with (
            stages() as show,
            open_control(
                control,
                controlnet,
                control_scale,
                pipeline=pipeline,
                clip=clip,
                start=start,
                stride=stride,
                engine=engine,
                show=show,
            ) as steered,
        ):
            inversion = pipeline.invert(
                clip,
                prompt=inversion_prompt,
                num_inversion_steps=num_inversion_steps,
                seed=seed,
                correction=correction,  # type: ignore[arg-type]
                fast=fast,
                control=steered if control_inversion else None,
                callback=show,
            )
            videos = [
                pipeline.edit(
                    one,
                    inversion,
                    negative_prompt=negative_prompt,
                    num_inference_steps=num_inference_steps,
                    guidance_scale=guidance_scale,
                    control=steered,
                    callback=_of(show, f"{index}/{len(prompts)}"),
                )
                for index, one in enumerate(prompts, start=1)
            ]
            rows = {"source": clip}
            if steered is not None:
                rows["control"] = steered.video
            if reconstruct:
                rows["reconstruction"] = pipeline.edit(
                    pipeline.manifest.prompt,
                    inversion,
                    num_inference_steps=num_inference_steps,
                    guidance_scale=1.0,
                    callback=_of(show, "source"),
                )
        settings = {
            "bundle": bundle.name,
            "caption": pipeline.manifest.prompt,
            "video": video.name,
            "negative_prompt": negative_prompt,
            "num_inference_steps": num_inference_steps,
            "num_inversion_steps": num_inversion_steps,
            "guidance_scale": pipeline.manifest.guidance_scale if guidance_scale is None else guidance_scale,
            "fast": fast,
            "inversion_prompt": inversion.prompt,
            "correction": correction,
            "adapter_scale": adapter_scale,
            "seed": seed,
            "engine": pipeline.engine,
        }
        if controlnet is not None and steered is not None:
            settings |= {
                "control": control if control in DETECTORS else Path(str(control)).name,
                "controlnet": controlnet.name,
                "control_scale": steered.scale,
                "control_inversion": control_inversion,
            }
        _write(folder, prompts, videos, suffix, fps, settings, rows)
    _say_where(out)


def generate(
    bundle: BundleArg,
    out: OutOpt,
    prompt: PromptOpt = None,
    seed: Annotated[int, typer.Option(help="Of the noise: same seed, same video.")] = 0,
    negative_prompt: NegativeOpt = "",
    num_inference_steps: StepsOpt = None,
    guidance_scale: GuidanceOpt = None,
    adapter_scale: AdapterOpt = 1.0,
    fps: FpsOpt = None,
    file_format: FormatOpt = "mp4",
    engine: EngineOpt = "auto",
    overwrite: OverwriteOpt = False,
) -> None:
    """Make videos from noise: the tuned clip's motion, but not its layout.

    [bold]Example[/]

      tav generate bundles/skiing --prompt "a panda is skiing" --seed 7 --out out
    """
    prompts = _prompts(prompt)
    suffix = _suffix(file_format)
    _check_numbers(fps, seed)
    check_adapter_scale(adapter_scale)
    check_new(out, overwrite=overwrite)
    check_apart(out, bundle)

    from tav_sdk.pipeline import load

    with (
        load(bundle, engine=engine, adapter_scale=adapter_scale) as pipeline,
        new_folder(out, overwrite=overwrite) as folder,
    ):
        num_inference_steps = _steps("--num-inference-steps", num_inference_steps, pipeline)
        say(f"generating on {pipeline.engine} ({pipeline.why})")
        with stages() as show:
            videos = [
                pipeline.generate(
                    one,
                    seed=seed,
                    negative_prompt=negative_prompt,
                    num_inference_steps=num_inference_steps,
                    guidance_scale=guidance_scale,
                    callback=_of(show, f"{index}/{len(prompts)}"),
                )
                for index, one in enumerate(prompts, start=1)
            ]
        settings = {
            "bundle": bundle.name,
            "caption": pipeline.manifest.prompt,
            "negative_prompt": negative_prompt,
            "num_inference_steps": num_inference_steps,
            "guidance_scale": pipeline.manifest.guidance_scale if guidance_scale is None else guidance_scale,
            "adapter_scale": adapter_scale,
            "seed": seed,
            "engine": pipeline.engine,
        }
        _write(folder, prompts, videos, suffix, fps, settings, {})
    _say_where(out)


def _prompts(prompt: list[str] | None) -> list[str]:
    if not prompt:
        raise PromptError("the list of prompts is empty; give at least one --prompt")
    if not all(words.strip() for words in prompt):
        raise PromptError("a --prompt is empty; say what the new video shows")
    return prompt


def _of(show: Callback, which: str) -> Callback:
    """A callback that says which of several videos a step is of."""
    return lambda step: show(dataclasses.replace(step, stage=f"{step.stage} {which}"))


def _check_numbers(fps: float | None, seed: int | None) -> None:
    """What would otherwise be found out only when all is computed."""
    if fps is not None and not 0.01 <= fps <= 1000:
        raise InputError(f"--fps must be from 0.01 to 1000, got {fps:g}")
    if seed is not None and seed < 0:
        raise InputError(f"--seed must not be negative, got {seed}")


def _steps(option: str, given: int | None, pipeline: Pipeline) -> int:
    """The steps that were given, checked, or those of the bundle's base."""
    steps = pipeline.manifest.num_inference_steps if given is None else given
    most = pipeline.schedule.num_train_timesteps
    if not 1 <= steps <= most:
        raise InputError(f"{option} must be from 1 to {most}, got {steps}")
    return steps


def _suffix(file_format: str) -> str:
    if file_format not in ("mp4", "gif", "webp"):
        raise InputError(f"--format must be mp4, gif or webp, got {file_format!r}")
    return f".{file_format}"


def _write(
    folder: Path,
    prompts: Sequence[str],
    videos: Sequence[Video],
    suffix: str,
    fps: float | None,
    settings: Mapping[str, Any],
    rows: Mapping[str, Video],
) -> None:
    from PIL import Image

    from tav_sdk.contact_sheet import contact_sheet

    for name, video in rows.items():
        video.save(folder / f"{name}{suffix}", fps=fps)
    # Numbered, since a prompt is no file name.
    names = [f"{index:02d}{suffix}" for index in range(len(prompts))]
    for name, video in zip(names, videos, strict=True):
        video.save(folder / name, fps=fps)
    labelled = {f"{name}: {prompt}": video for name, prompt, video in zip(names, prompts, videos, strict=True)}
    Image.fromarray(contact_sheet({**rows, **labelled})).save(folder / "sheet.png")
    edits = [{"file": name, "prompt": prompt} for name, prompt in zip(names, prompts, strict=True)]
    record = json.dumps({**settings, "edits": edits}, indent=2, ensure_ascii=False)
    (folder / "edits.json").write_text(record + "\n", encoding="utf-8")


def _say_where(out: Path) -> None:
    say(f"[green]written[/] to {out}; all at a glance: {out / 'sheet.png'}")
