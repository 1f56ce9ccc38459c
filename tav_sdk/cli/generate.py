"""``tav generate``"""

from __future__ import annotations

from typing import Annotated

import typer

from tav_sdk.cli.console import stages
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
from tav_sdk.output_paths import check_apart, check_new


def generate(
    bundle: BundleArg,
    out: OutOpt,
    prompt: PromptOpt = None,
    frames: Annotated[
        int | None, typer.Option(help="Frames of each video, however many.", show_default="the bundle's")
    ] = None,
    window: WindowOpt = None,
    seed: Annotated[int, typer.Option(help="Seed of the noise: same seed, same video.")] = 0,
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
    from tav_sdk.request import GenerateRequest, SampleOptions

    request = GenerateRequest(
        prompts=given_prompts(prompt),
        num_frames=frames,
        sample=SampleOptions(
            negative_prompt=negative_prompt, num_inference_steps=num_inference_steps, guidance_scale=guidance_scale
        ),
        seed=seed,
        adapter_scale=adapter_scale,
        window=window,
        fps=fps,
        file_format=file_format,  # type: ignore[arg-type]
    )
    check_new(out, overwrite=overwrite)
    check_apart(out, bundle)

    from tav_sdk.edits import make
    from tav_sdk.pipeline import load

    with load(bundle, engine=engine, adapter_scale=adapter_scale) as pipeline, stages() as show:
        make(request, pipeline, out, overwrite=overwrite, callback=show)
    say_where(out)
