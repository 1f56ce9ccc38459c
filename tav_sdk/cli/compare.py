"""``tav compare``"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from tav_sdk.bundle.tuned_weights import check_adapter_scale
from tav_sdk.cli.base_options import AllowPickle, LorasOfRun, TokenizerFolder
from tav_sdk.cli.console import say, stages
from tav_sdk.errors import InputError, PromptError
from tav_sdk.files import new_file
from tav_sdk.output_paths import check_new_file
from tav_sdk.words import brief

SHEET = "compare.png"


def compare(
    run: Annotated[Path, typer.Argument(help="A run folder written by tav tune.")],
    prompt: Annotated[
        list[str] | None, typer.Option("--prompt", help="What an edit shows; repeat it for several edits.")
    ] = None,
    steps: Annotated[
        str | None, typer.Option(help="Steps of tuning, such as 100,200,300.", show_default="all there are")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="The picture to write.", show_default=f"RUN/{SHEET}")] = None,
    adapter_scale: Annotated[
        float, typer.Option(help="How much of the tuning is used, 0 to 2: 0 is the base, 1 as it was tuned.")
    ] = 1.0,
    num_inference_steps: Annotated[
        int | None, typer.Option(help="DDIM steps of inversion and sampling.", show_default="the base's: 50, Pocket 25")
    ] = None,
    guidance_scale: Annotated[
        float | None,
        typer.Option(help="Classifier-free guidance; at most 1 is none.", show_default="the base's: 12.5, Pocket 3.5"),
    ] = None,
    video: Annotated[
        Path | None, typer.Option(help="The clip to edit.", show_default="the one that was tuned on")
    ] = None,
    base: Annotated[
        str | None, typer.Option(help="The base model, if it is no longer where the run was tuned.")
    ] = None,
    lora: LorasOfRun = None,
    tokenizer: TokenizerFolder = None,
    allow_pickle: AllowPickle = False,
    device: Annotated[str | None, typer.Option(help="A torch device.", show_default="a GPU if there is one")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the picture, if it is there.")] = False,
) -> None:
    """Edit a clip with the snapshots of its tuning, in one picture: the source, then a row for each prompt and step.

    This shows over-tuning: edits keep more and more of the clip and show less of their prompt. Export the step that
    looks best. tav tune keeps a snapshot every --checkpointing-steps. Edits run in PyTorch, without an export.

    [bold]Examples[/]

      tav tune --video clip.mp4 --prompt "a man is skiing" --checkpointing-steps 100 --out runs/skiing

      tav compare runs/skiing --steps 100,200,300 --prompt "a panda is skiing" --prompt "a man is skiing, pixel art"

      tav compare runs/skiing --prompt "a panda is skiing" --adapter-scale 0.7 --out compared.png

      tav export runs/skiing --step 200 --out bundles/skiing
    """
    if not prompt:
        raise PromptError("the list of prompts is empty; give at least one --prompt")
    if not all(words.strip() for words in prompt):
        raise PromptError("a --prompt is empty; say what the edit shows")
    check_adapter_scale(adapter_scale)
    chosen = None if steps is None else _numbers(steps)
    out = run / SHEET if out is None else out
    if out.suffix.lower() != ".png":
        raise InputError(f"--out must be a .png, got {out}")
    check_new_file(out, overwrite=overwrite)

    from tav_sdk.training.run_folder import load_run

    # Before PyTorch, which takes seconds to load.
    loaded = load_run(run)
    chosen = loaded.steps if chosen is None else chosen
    for step in chosen:
        loaded.at(step)
    if steps is None and len(chosen) == 1:
        raise InputError(
            f"the run {run} has no snapshots, only its last step, {chosen[0]}; tune again with --checkpointing-steps "
            f"{max(chosen[0] // 4, 1)}, or look at that step alone with --steps {chosen[0]}"
        )

    from PIL import Image

    from tav_sdk.training import base_of_run, compare_snapshots
    from tav_sdk.training.tuning import find_device
    from tav_sdk.video.contact_sheet import contact_sheet

    with new_file(out) as path, stages() as show:
        rows = compare_snapshots(
            loaded,
            prompt,
            steps=chosen,
            video=video,
            base=base_of_run(loaded, base, loras=lora or None, tokenizer=tokenizer, allow_pickle=allow_pickle),
            adapter_scale=adapter_scale,
            num_inference_steps=num_inference_steps,
            guidance_scale=guidance_scale,
            device=find_device(device),
            callback=show,
        )
        Image.fromarray(contact_sheet(rows)).save(path)
    say(f"to {out}; next: tav export {run} --step STEP --out BUNDLE", mark="written")


def _numbers(steps: str) -> tuple[int, ...]:
    parts = [part.strip() for part in steps.split(",")]
    if not all(part.isascii() and part.isdecimal() and len(part) < 10 for part in parts):
        raise InputError(f"--steps must be whole numbers with commas between, such as 100,200, got {brief(steps)}")
    return tuple(map(int, parts))
