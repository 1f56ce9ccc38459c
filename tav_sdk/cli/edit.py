"""``tav edit``"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from tav_sdk.cli.console import stages
from tav_sdk.cli.control import ControlInversionOpt, ControlNetOpt, ControlOpt, ControlScaleOpt, control_options, opened
from tav_sdk.cli.edit_options import (
    AdapterOpt,
    BundleArg,
    EngineOpt,
    FormatOpt,
    FpsOpt,
    GuidanceOpt,
    NegativeOpt,
    OutOpt,
    OverwriteOpt,
    PromptOpt,
    StepsOpt,
    WindowOpt,
    given_prompts,
    say_where,
)
from tav_sdk.errors import InputError
from tav_sdk.output_paths import check_apart, check_new
from tav_sdk.request.frames import MAX_FRAMES
from tav_sdk.words import brief


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
            help="What keeps edits near the clip: none, negative-prompt or direct; negative-prompt inverts with the "
            "tuned clip's caption by default."
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
            help="Frames of the clip, any number: more than the bundle's are edited window by window.",
            show_default="the bundle's",
        ),
    ] = None,
    window: WindowOpt = None,
    stream: Annotated[
        bool,
        typer.Option(
            "--stream",
            help="Finish each window before the next begins, so that the first frames come first.",
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

    Writes one video per prompt (00.mp4, 01.mp4, ...), source.mp4, sheet.png (all of them side by side) and edits.json;
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
    from tav_sdk.request import EditRequest, FrameSelection, InvertOptions, SampleOptions

    request = EditRequest(
        prompts=given_prompts(prompt),
        frames=FrameSelection(num_frames=_frames(frames), start=start, stride=stride),
        invert=InvertOptions(
            prompt=inversion_prompt,
            num_inversion_steps=num_inversion_steps,
            correction=correction,  # type: ignore[arg-type]
            fast=fast,
            posterior_seed=seed,
        ),
        sample=SampleOptions(
            negative_prompt=negative_prompt, num_inference_steps=num_inference_steps, guidance_scale=guidance_scale
        ),
        control=control_options(control, controlnet, control_scale, inversion=control_inversion),
        adapter_scale=adapter_scale,
        window=window,
        stream=stream,
        reconstruct=reconstruct,
        fps=fps,
        file_format=file_format,  # type: ignore[arg-type]
    )
    check_new(out, overwrite=overwrite)
    check_apart(out, bundle, video)

    from tav_sdk.edits import make
    from tav_sdk.pipeline import load

    with (
        load(bundle, engine=engine, cache=not no_cache, adapter_scale=adapter_scale) as pipeline,
        stages() as show,
        opened(request.control, pipeline, engine=engine, show=show) as net,
    ):
        make(request, pipeline, out, video=video, controlnet=net, overwrite=overwrite, callback=show)
    say_where(out)


def _frames(text: str | None) -> int | Literal["all"] | None:
    if text is None:
        return None
    if text == "all":
        return "all"
    if not (text.isascii() and text.isdecimal() and len(text) < 20):
        expected = f"a whole number from 1 to {MAX_FRAMES}, or all"
        raise InputError(f"must be {expected}, got {brief(text)}", field="frames.num_frames")
    return int(text)
