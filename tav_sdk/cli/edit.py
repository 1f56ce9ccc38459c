"""``tav edit`` and ``tav generate``"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tav_sdk.bundle.tuned_weights import check_adapter_scale
from tav_sdk.cli.console import say, stages
from tav_sdk.cli.control import (
    ControlInversionOpt,
    ControlNetOpt,
    ControlOpt,
    ControlScaleOpt,
    check_control,
    open_control,
)
from tav_sdk.diffusion.inversion import CORRECTIONS, check_correction, fast_steps
from tav_sdk.edits.output import EditOutput, check_format
from tav_sdk.engines.select import CHOICES
from tav_sdk.errors import InputError, PromptError
from tav_sdk.files import check_apart, check_new, new_folder
from tav_sdk.progress import Callback, StepProgress
from tav_sdk.video.edges import DETECTORS

if TYPE_CHECKING:
    from tav_sdk.bundle.manifest import Manifest
    from tav_sdk.pipeline.pipeline import Pipeline
    from tav_sdk.video.clip import Clip

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
WindowOpt = Annotated[
    int | None,
    typer.Option(
        help="Frames of a window; a bundle's graphs take one number only, so this says that it is the one you expect.",
        show_default="the bundle's",
    ),
]
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
    frames: Annotated[
        str | None,
        typer.Option(
            metavar="N|all",
            help="Frames of the clip, however many: longer than the bundle's clips, they go window by window.",
            show_default="the bundle's",
        ),
    ] = None,
    window: WindowOpt = None,
    stream: Annotated[
        bool,
        typer.Option(
            "--stream",
            help="Each window through all steps before the next begins, so that the first frames come first.",
        ),
    ] = False,
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

      tav edit bundles/skiing --video long.mp4 --prompt "a panda is skiing" --frames all --out out

      tav edit bundles/skiing --video long.mp4 --prompt "a panda is skiing" --frames all --stream --out out

      tav edit bundles/skiing --engine tensorrt-rtx --video clip.mp4 --prompt "a panda is skiing" --out out
    """
    prompts = _prompts(prompt)
    check_format(file_format)
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
    if frames not in (None, "all") and not (frames.isdecimal() and int(frames) >= 1):
        raise InputError(f"--frames must be a number of at least 1, or all, got {frames!r}")
    if control is not None and frames is not None:
        raise InputError("--control steers videos of the bundle's own frames; leave --frames out")
    if stream:
        _check_stream(
            prompts, file_format, correction, fast=fast, reconstruct=reconstruct, controlled=control is not None
        )
    check_new(out, overwrite=overwrite)
    check_apart(out, bundle, video)

    from tav_sdk.pipeline.pipeline import load
    from tav_sdk.video.clip import read_video
    from tav_sdk.video.file import VideoFile

    with (
        load(bundle, engine=engine, cache=not no_cache, adapter_scale=adapter_scale) as pipeline,
        new_folder(out, overwrite=overwrite) as folder,
    ):
        tuned = pipeline.manifest.provenance["tuning"]
        start = int(tuned["start"]) if start is None else start
        stride = int(tuned["stride"]) if stride is None else stride
        manifest = pipeline.manifest
        _check_window(window, manifest)
        num_frames = manifest.num_frames if frames is None else None if frames == "all" else int(frames)
        where = {"num_frames": num_frames, "start": start, "stride": stride, "size": (manifest.height, manifest.width)}
        clip: Clip = read_video(video, **where) if frames is None else VideoFile(video, **where)
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
        if clip.num_frames != manifest.num_frames:
            _say_windows(pipeline, clip.num_frames)
        output = EditOutput(folder, file_format, clip.fps if fps is None else fps, clip.num_frames)
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
            output.add("source", clip.chunks(manifest.num_frames))
            if steered is not None:
                output.add("control", [steered.video.frames])
            options: dict[str, Any] = {"negative_prompt": negative_prompt, "guidance_scale": guidance_scale}
            options["num_inference_steps"] = num_inference_steps
            if stream:
                parts = pipeline.stream(
                    prompts[0],
                    clip,
                    inversion_prompt=inversion_prompt,
                    num_inversion_steps=num_inversion_steps,
                    seed=seed,
                    callback=_streamed(
                        show, -(-clip.num_frames // manifest.num_frames), num_inversion_steps + num_inference_steps
                    ),
                    **options,
                )
                if inversion_prompt is None:
                    inversion_prompt = manifest.inversion_prompt
                say(f"it can be watched while it grows, and is in {out} when it is done: {folder / '00.mp4'}")
                edits = [{"file": output.add("00", parts, label=prompts[0], growing=True), "prompt": prompts[0]}]
            else:
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
                inversion_prompt = inversion.prompt
                edits = []
                for index, one in enumerate(prompts):
                    which = _of(show, f"{index + 1}/{len(prompts)}")
                    parts = pipeline.edit_frames(one, inversion, control=steered, callback=which, **options)
                    edits.append({"file": output.add(f"{index:02d}", parts, label=one), "prompt": one})
                if reconstruct:
                    parts = pipeline.edit_frames(
                        manifest.prompt,
                        inversion,
                        num_inference_steps=num_inference_steps,
                        guidance_scale=1.0,
                        callback=_of(show, "source"),
                    )
                    output.add("reconstruction", parts)
        settings = {
            "bundle": bundle.name,
            "caption": pipeline.manifest.prompt,
            "video": video.name,
            "negative_prompt": negative_prompt,
            "num_inference_steps": num_inference_steps,
            "num_inversion_steps": num_inversion_steps,
            "guidance_scale": pipeline.manifest.guidance_scale if guidance_scale is None else guidance_scale,
            "fast": fast,
            "inversion_prompt": inversion_prompt,
            "correction": correction,
            "adapter_scale": adapter_scale,
            "seed": seed,
            "num_frames": clip.num_frames,
            "stream": stream,
            "engine": pipeline.engine,
        }
        if controlnet is not None and steered is not None:
            settings |= {
                "control": control if control in DETECTORS else Path(str(control)).name,
                "controlnet": controlnet.name,
                "control_scale": steered.scale,
                "control_inversion": control_inversion,
            }
        output.finish(edits, settings)
    _say_where(out)


def generate(
    bundle: BundleArg,
    out: OutOpt,
    prompt: PromptOpt = None,
    frames: Annotated[
        int | None, typer.Option(help="Frames of each video, however many.", show_default="the bundle's", min=1)
    ] = None,
    window: WindowOpt = None,
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

    [bold]Examples[/]

      tav generate bundles/skiing --prompt "a panda is skiing" --seed 7 --out out

      tav generate bundles/skiing --prompt "a panda is skiing" --frames 64 --out out
    """
    prompts = _prompts(prompt)
    check_format(file_format)
    _check_numbers(fps, seed)
    check_adapter_scale(adapter_scale)
    check_new(out, overwrite=overwrite)
    check_apart(out, bundle)

    from tav_sdk.pipeline.pipeline import load

    with (
        load(bundle, engine=engine, adapter_scale=adapter_scale) as pipeline,
        new_folder(out, overwrite=overwrite) as folder,
    ):
        num_inference_steps = _steps("--num-inference-steps", num_inference_steps, pipeline)
        manifest = pipeline.manifest
        _check_window(window, manifest)
        num_frames = manifest.num_frames if frames is None else frames
        say(f"generating on {pipeline.engine} ({pipeline.why})")
        if num_frames != manifest.num_frames:
            _say_windows(pipeline, num_frames)
        rate = float(manifest.provenance["clip"]["fps"]) if fps is None else fps
        output, edits = EditOutput(folder, file_format, rate, num_frames), []
        with stages() as show:
            for index, one in enumerate(prompts):
                parts = pipeline.generate_frames(
                    one,
                    num_frames=num_frames,
                    seed=seed,
                    negative_prompt=negative_prompt,
                    num_inference_steps=num_inference_steps,
                    guidance_scale=guidance_scale,
                    callback=_of(show, f"{index + 1}/{len(prompts)}"),
                )
                edits.append({"file": output.add(f"{index:02d}", parts, label=one), "prompt": one})
        settings = {
            "bundle": bundle.name,
            "caption": pipeline.manifest.prompt,
            "negative_prompt": negative_prompt,
            "num_inference_steps": num_inference_steps,
            "guidance_scale": pipeline.manifest.guidance_scale if guidance_scale is None else guidance_scale,
            "adapter_scale": adapter_scale,
            "seed": seed,
            "num_frames": num_frames,
            "engine": pipeline.engine,
        }
        output.finish(edits, settings)
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


def _check_window(window: int | None, manifest: Manifest) -> None:
    if window not in (None, manifest.num_frames):
        raise InputError(
            f"--window must be {manifest.num_frames}, the frames that the bundle's graphs take at a time, got {window}"
            "; for another window tune and export with --num-frames"
        )


def _check_stream(
    prompts: Sequence[str], file_format: str, correction: str, *, fast: bool, reconstruct: bool, controlled: bool
) -> None:
    """What does not go with windows that are finished one after the other."""
    if len(prompts) > 1:
        raise InputError(f"--stream makes one video at a time, got {len(prompts)} prompts; call it once a prompt")
    given = {
        f"--format {file_format}": file_format != "mp4",
        f"--correction {correction}": correction != "none",
        "--fast": fast,
        "--reconstruct": reconstruct,
        "--control": controlled,
    }
    if options := [option for option, is_given in given.items() if is_given]:
        raise InputError(f"--stream does not go with {', '.join(options)}; leave one of them out")


def _say_windows(pipeline: Pipeline, num_frames: int) -> None:
    length = pipeline.manifest.num_frames
    if pipeline.exact_long_video:
        count = -(-num_frames // length)
        say(f"{_counted(num_frames, 'frame')}, {_counted(count, 'window')} of {length}: as in one pass")
    else:
        say(
            f"[yellow]{num_frames} frames by overlapping windows of {length}, which is approximate:[/] "
            f"{pipeline.long_video_note}"
        )


def _counted(count: int, what: str) -> str:
    return f"{count} {what}{'s' * (count != 1)}"


def _streamed(show: Callback, num_windows: int, num_steps: int) -> Callback:
    """A callback that shows windows as one stage, and the steps of each as its parts."""
    done = 0

    def update(step: StepProgress) -> bool | None:
        nonlocal done
        if step.stage not in ("inversion", "sampling"):
            return None
        window, part = divmod(done, num_steps)
        done += 1
        if part + 1 == num_steps:
            return show(StepProgress("stream", window + 1, num_windows))
        metrics = {"of": "stream", "steps": num_windows, "part": "step"}
        return show(StepProgress("windows", part + 1, num_steps, step.timestep, metrics=metrics))

    return update


def _say_where(out: Path) -> None:
    say(f"[green]written[/] to {out}; all at a glance: {out / 'sheet.png'}")
