"""The settings of jobs by the wire contract's names, and requests made of them.

Values are judged by the server, which names the field that is wrong.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, TypedDict

from tav_sdk.client.objects import Video, id_of, is_id
from tav_sdk.errors import InputError, VideoError, VideoNotFoundError
from tav_sdk.words import brief, is_utf8

EXTRA = (
    "mode",
    "num_inversion_steps",
    "inversion_prompt",
    "correction",
    "fast",
    "adapter_scale",
    "start",
    "stride",
    "preview",
)
"""Settings that the contract has in ``extra_params``."""


class VideoSettings(TypedDict, total=False):
    """Settings of a video; what is not given, or ``None``, is the model's.

    Attributes:
        size: ``WIDTHxHEIGHT``; ``width`` and ``height`` are the same as numbers. Only the model's.
        num_frames: frames of the video.
        seconds: its length, instead of ``num_frames``.
        fps: frames per second.
        num_inference_steps: DDIM steps of sampling, 1 to 200.
        guidance_scale: classifier-free guidance, 0 to 20.
        seed: of the start noise, or of the VAE's posterior in an edit.
        negative_prompt: what the video does not show.
        user: comes back as it is.
        mode: ``edit`` or ``generate``; ``auto`` edits if there is a clip.
        num_inversion_steps: DDIM steps of inversion, 1 to 200.
        inversion_prompt: prompt to invert the clip with.
        correction: what keeps edits near the clip.
        fast: nearly the same edit with about a third of the evaluations.
        adapter_scale: how much of the tuning is used, 0 to 2.
        start, stride: first frame of the clip, and the distance between frames.
        preview: whether the server makes preview pictures.
        extra_params: the settings from ``mode`` on, as the contract has them.
    """

    size: str | None
    width: int | None
    height: int | None
    num_frames: int | None
    seconds: str | None
    fps: float | None
    num_inference_steps: int | None
    guidance_scale: float | None
    seed: int | None
    negative_prompt: str | None
    user: str | None
    mode: Literal["auto", "edit", "generate"] | None
    num_inversion_steps: int | None
    inversion_prompt: str | None
    correction: Literal["none", "negative-prompt", "direct"] | None
    fast: bool | None
    adapter_scale: float | None
    start: int | None
    stride: int | None
    preview: bool | None
    extra_params: Mapping[str, Any] | None


class TuningSettings(TypedDict, total=False):
    """Settings of a tuning; what is not given, or ``None``, is the server's.

    Attributes:
        base: name of the base model.
        num_frames: frames of the clip, 1 to 64; ``start`` and ``stride`` choose them.
        size: ``WIDTHxHEIGHT``.
        num_train_steps: 1 to 5000.
        learning_rate: above 0, at most 1.
        seed: of the tuning.
        preset: ``original`` is the released code's.
        precision: of the model that is exported.
        user: comes back as it is.
    """

    base: str | None
    num_frames: int | None
    start: int | None
    stride: int | None
    size: str | None
    num_train_steps: int | None
    learning_rate: float | None
    seed: int | None
    preset: Literal["default", "original"] | None
    precision: Literal["fp32", "fp16", "bf16", "int8"] | None
    user: str | None


def fields_of(settings: Mapping[str, Any], **more: Any) -> dict[str, Any]:
    """A request's fields, without those that are ``None``; those of ``extra_params`` where they belong.

    Raises:
        InputError: a text cannot be sent, or a setting is there twice.
    """
    given = {name: value for name, value in {**more, **settings}.items() if value is not None}
    extra = given.pop("extra_params", {})
    if not isinstance(extra, Mapping):
        raise InputError(f"must be a dictionary, got {brief(extra)}", field="extra_params")
    extra = dict(extra)
    for name in EXTRA:
        if name in given:
            if name in extra:
                raise InputError("is there twice, once in extra_params; leave one of them out", field=name)
            extra[name] = given.pop(name)
    for name, value in (*given.items(), *extra.items()):
        if isinstance(value, str) and not is_utf8(value):
            raise InputError(f"must be text in UTF-8, got {brief(value)}", field=name)
    return {**given, "extra_params": extra} if extra else given


def tuning_fields_of(settings: Mapping[str, Any], **more: Any) -> dict[str, Any]:
    """A tuning's fields, which has no ``extra_params``.

    Raises:
        InputError: a text cannot be sent.
    """
    fields = fields_of(settings, **more)
    return {**fields.pop("extra_params", {}), **fields}


def clip_of(video: str | Path | Video) -> str | Path:
    """What ``video`` stands for: the id of a video on the server, or the path of a file here.

    Raises:
        VideoNotFoundError: there is no such file.
        VideoError: it is a folder or no regular file.
    """
    if isinstance(video, Video) or (isinstance(video, str) and is_id(video)):
        return id_of(video)
    path = Path(video)
    if not path.exists():
        raise VideoNotFoundError(f"{path}: there is no such file. Check the path to the video.")
    if not path.is_file():
        raise VideoError(f"{path}: expected a video file, and this is none. Give the path of a file.")
    return path
