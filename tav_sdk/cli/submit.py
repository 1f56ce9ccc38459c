"""``tav submit``"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tav_sdk.cli.console import say, write, write_json
from tav_sdk.cli.edit_options import given_prompts
from tav_sdk.cli.field_options import option_of
from tav_sdk.cli.server_options import (
    VIDEO_SUFFIX,
    JsonOpt,
    ServerOpt,
    TokenFileOpt,
    client_of,
    file_in,
    say_how_it_ended,
    watch_job,
)
from tav_sdk.errors import InputError, PromptError

if TYPE_CHECKING:
    from tav_sdk.client import Client, Tuning, Video

_TUNING = ("base", "num_train_steps", "learning_rate", "precision")
"""Settings of tunings alone."""
_BOTH = ("num_frames", "start", "stride", "seed")


def submit(
    prompt: Annotated[
        list[str] | None,
        typer.Option("--prompt", help="What the new video shows; repeat it for several jobs.", show_default=False),
    ] = None,
    video: Annotated[
        str | None,
        typer.Option(
            help="The clip: a file, or the id of a finished video on the server.", show_default="the model's clip"
        ),
    ] = None,
    model: Annotated[
        str | None, typer.Option(help="Id of the model; of a tuning, the one to make.", show_default="the only one")
    ] = None,
    remix: Annotated[
        str | None, typer.Option(help="Id of a video whose source and settings are taken.", show_default=False)
    ] = None,
    tune: Annotated[
        bool, typer.Option("--tune", help="Tune on --video instead, --prompt its caption; makes a model.")
    ] = False,
    wait: Annotated[bool, typer.Option("--wait", help="Watch the jobs until they have ended, as tav watch.")] = False,
    out: Annotated[
        Path | None,
        typer.Option(
            help="Wait, and fetch the video: a file .mp4, or a folder for JOB.mp4 of each.", show_default=False
        ),
    ] = None,
    generate: Annotated[bool, typer.Option("--generate", help="Use no clip, only the tuned model.")] = False,
    num_inference_steps: Annotated[
        int | None, typer.Option(help="DDIM steps of sampling.", show_default="the model's")
    ] = None,
    guidance_scale: Annotated[
        float | None, typer.Option(help="Classifier-free guidance.", show_default="the model's")
    ] = None,
    negative_prompt: Annotated[
        str | None, typer.Option(help="What the new video does not show.", show_default=False)
    ] = None,
    seed: Annotated[
        int | None, typer.Option(help="Of the start noise, or of the clip's latents.", show_default="none")
    ] = None,
    frames: Annotated[int | None, typer.Option(help="Frames of the video.", show_default="the model's")] = None,
    fps: Annotated[float | None, typer.Option(help="Frames per second.", show_default="the clip's")] = None,
    num_inversion_steps: Annotated[
        int | None, typer.Option(help="DDIM steps of inversion.", show_default="those of sampling")
    ] = None,
    inversion_prompt: Annotated[
        str | None, typer.Option(help="Prompt to invert the clip with.", show_default="the base's")
    ] = None,
    correction: Annotated[
        str | None, typer.Option(help="none, negative-prompt or direct; see tav edit.", show_default="none")
    ] = None,
    fast: Annotated[bool, typer.Option("--fast", help="Nearly the same edit with a third of the work.")] = False,
    adapter_scale: Annotated[
        float | None, typer.Option(help="How much of the tuning is used, 0 to 2.", show_default="1")
    ] = None,
    start: Annotated[int | None, typer.Option(help="Index of the first frame.", show_default="as tuned")] = None,
    stride: Annotated[int | None, typer.Option(help="Distance between frames.", show_default="as tuned")] = None,
    base: Annotated[
        str | None, typer.Option(help="With --tune: the base model.", show_default="the server's first")
    ] = None,
    num_train_steps: Annotated[int | None, typer.Option(help="With --tune: steps.", show_default="the base's")] = None,
    learning_rate: Annotated[
        float | None, typer.Option(help="With --tune: the learning rate.", show_default="the base's")
    ] = None,
    precision: Annotated[
        str | None, typer.Option(help="With --tune: fp32, fp16, bf16 or int8.", show_default="the server's")
    ] = None,
    server: ServerOpt = None,
    token_file: TokenFileOpt = None,
    json_: JsonOpt = False,
) -> None:
    """Send jobs to a server: edits, generations, or a tuning. Prints the id of each.

    With --wait or --out, the exit code is 1 if one of them failed.

    [bold]Examples[/]

      tav submit --model skiing --prompt "a panda is skiing" --out panda.mp4

      tav submit --model skiing --prompt "a panda is skiing" --prompt "skiing, pixel art" --out videos

      tav submit --model skiing --video clip.mp4 --prompt "a panda is skiing" --guidance-scale 7.5

      tav submit --remix video_0123456789abcdef0123456789abcdef --prompt "a fox is skiing" --wait

      tav submit --tune --video clip.mp4 --prompt "a man is skiing" --model skiing --wait

      tav watch $(tav submit --model skiing --prompt "a panda is skiing" --server https://videos.example.org)
    """
    prompts = given_prompts(prompt)
    settings = {
        "num_inference_steps": num_inference_steps,
        "guidance_scale": guidance_scale,
        "negative_prompt": negative_prompt,
        "seed": seed,
        "num_frames": frames,
        "fps": fps,
        "mode": "generate" if generate else None,
        "num_inversion_steps": num_inversion_steps,
        "inversion_prompt": inversion_prompt,
        "correction": correction,
        "fast": fast or None,
        "adapter_scale": adapter_scale,
        "start": start,
        "stride": stride,
        "base": base,
        "num_train_steps": num_train_steps,
        "learning_rate": learning_rate,
        "precision": precision,
    }
    given = {name: value for name, value in settings.items() if value is not None}
    _check(given, prompts, video=video, model=model, remix=remix, tune=tune, out=out)
    with client_of(server, token_file) as client:
        wait, code = wait or out is not None, 0
        sent: list[Video | Tuning] = []
        for one in prompts:
            job = _sent(client, one, given, video=video, model=model, remix=remix, tune=tune)
            sent.append(job)
            if not json_:
                write(job.id)  # at once: the next one may be refused
            elif not wait:
                write_json(dict(job.raw), indent=None)
        for job in sent if wait else ():
            ended = watch_job(client, job.id)
            if json_:
                write_json(dict(ended.raw), indent=None)
            failed = say_how_it_ended(ended)
            code = max(code, failed)
            if out is not None and not failed:
                say(client.download(job.id, file_in(out, job.id, one=len(sent) == 1)), mark="written")
    raise typer.Exit(code)


def _check(
    given: dict[str, Any],
    prompts: tuple[str, ...],
    *,
    video: str | None,
    model: str | None,
    remix: str | None,
    tune: bool,
    out: Path | None,
) -> None:
    """Check that the options go together, before anything is sent.

    Raises:
        InputError: they do not.
    """
    if tune:
        if len(prompts) > 1:
            raise PromptError("must be given once with --tune, as the clip's caption", field="prompts")
        if video is None:
            raise InputError("must be given with --tune; name the clip's file", field="video")
        if remix is not None:
            raise InputError("cannot be given with --tune", field="remix")
        if out is not None:
            raise InputError("cannot be given with --tune: it makes a model, no video; use --wait", field="out")
        for name in given:
            if name not in (*_TUNING, *_BOTH):
                raise InputError(f"{'--generate' if name == 'mode' else option_of(name)} is not for tunings")
    for name in _TUNING:
        if name in given and not tune:
            raise InputError("is for tunings; give --tune as well", field=name)
    if remix is not None and (video is not None or model is not None):
        raise InputError("takes source and model of its video; leave --video and --model out", field="remix")
    if out is not None and len(prompts) > 1 and out.suffix.lower() == VIDEO_SUFFIX:
        raise InputError(f"must be a folder for several videos, got {out}", field="out")


def _sent(
    client: Client,
    prompt: str,
    settings: dict[str, Any],
    *,
    video: str | None,
    model: str | None,
    remix: str | None,
    tune: bool,
) -> Video | Tuning:
    if tune and video is not None:
        return client.tune(video, prompt, model, **settings)
    if remix is not None:
        return client.remix(remix, prompt, **settings)
    return client.create(prompt, video, model, **settings)
