"""The fields of a request for a video, by the contract's tables, as :func:`~.video_request.request_of` takes them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from tav_sdk.errors import InputError, SizeError
from tav_sdk.server.bodies import Body
from tav_sdk.server.fields import (
    Choice,
    Flag,
    Number,
    Rule,
    Seconds,
    Size,
    Table,
    Text,
    Whole,
    missing,
    read_fields,
    refuse_value,
    schema_of,
    unknown,
    wrong_type,
)
from tav_sdk.server.forms import Upload, invalid_body
from tav_sdk.server.problems import ProblemError
from tav_sdk.server.strict_json import parse_object
from tav_sdk.server.video_request import PARAMS

Operation = Literal["create", "edit", "remix"]
"""``POST /v1/videos`` and ``/v1/videos/sync``; ``/v1/videos/edits``; ``/v1/videos/{id}/remix``."""

CLIP_FIELD: dict[Operation, str | None] = {"create": "input_reference", "edit": "video", "remix": None}
"""The field that the clip comes in."""

PROMPT = Text(least=1, most=2000, blank=False)
EXTRA: Table = {
    "mode": Choice(of=("auto", "edit", "generate")),
    "num_inversion_steps": Whole(least=1, most=200),
    "inversion_prompt": Text(most=2000),
    "correction": Choice(of=("none", "negative-prompt", "direct")),
    "fast": Flag(),
    "adapter_scale": Number(least=0, most=2),
    "start": Whole(least=0, most=100_000),
    "stride": Whole(least=1, most=1000),
    "preview": Flag(),
}


@dataclass(frozen=True, kw_only=True)
class VideoFields:
    """What a request for a video asks for, each value judged by itself.

    Attributes:
        params: what was given, by the API's names, and ``extra_params``, in which ``mode`` is as it was given; no
            defaults. ``size`` is ``width`` and ``height`` here, ``seconds`` a number.
        model: the model that was named.
        source_video: id of the video to be edited, as it was given.
        clip: the file that came.
        clip_field: the name of the clip's field, for messages.
    """

    params: dict[str, Any]
    model: str | None = None
    source_video: str | None = None
    clip: Upload | None = None
    clip_field: str


def video_table(operation: Operation, *, max_frames: int) -> dict[str, Rule]:
    """The fields but ``extra_params`` and the clip's; the prompt first."""
    one = Whole(least=1, most=1)
    table: dict[str, Rule] = {
        "prompt": PROMPT,
        "model": Text(least=1, most=256),
        "size": Size(),
        "width": Whole(least=1, most=8192),
        "height": Whole(least=1, most=8192),
        "num_frames": Whole(least=1, most=max_frames),
        "seconds": Seconds(),
        "fps": Number(least=1, most=120),
        "num_inference_steps": Whole(least=1, most=200),
        "guidance_scale": Number(least=0, most=20),
        "seed": Whole(least=0, most=2**63 - 1),
        "negative_prompt": Text(most=2000),
        "user": Text(most=256),
        "n": one,
        "num_outputs_per_prompt": one,
    }
    if operation == "remix":
        del table["model"]
    return table


def video_schema(operation: Operation, *, max_frames: int, form: bool) -> dict[str, Any]:
    """The request's JSON schema, for the OpenAPI document."""
    schema = schema_of(video_table(operation, max_frames=max_frames), required=("prompt",))
    schema["properties"]["extra_params"] = schema_of(EXTRA)
    field = CLIP_FIELD[operation]
    if field is not None and form:
        schema["properties"][field] = {"type": "string", "format": "binary"}
    elif operation == "edit":
        video_id = {"type": "string", "pattern": "^video_[0-9a-f]{32}$"}
        schema["properties"]["video"] = {
            "type": "object",
            "properties": {"id": video_id},
            "required": ["id"],
            "additionalProperties": False,
        }
    if operation == "edit":
        schema["required"].append("video")
    return schema


def read_video_fields(body: Body, operation: Operation, *, max_frames: int) -> VideoFields:
    """Judge a body's fields.

    Raises:
        ProblemError: 400 ``missing_parameter``, ``unknown_parameter``, ``invalid_type``, ``invalid_value``; of
            ``extra_params`` in a form ``invalid_json`` or ``invalid_body`` as well.
    """
    given = dict(body.fields)
    table = video_table(operation, max_frames=max_frames)
    extra = read_extra_params(given, form=body.form)
    source = _read_clip_field(given, operation, form=body.form)
    names = [*table, "extra_params", *filter(None, [CLIP_FIELD[operation]])]
    for name in given:
        if name not in table:
            raise unknown(name, names)
    _check_file(body, operation, names)
    values = read_fields(table, given, form=body.form)
    if "prompt" not in values:
        raise missing("prompt", "say what the video shows")
    if operation == "edit" and source is None and body.file is None:
        raise missing("video", 'send a file in a form, or {"id": "video_..."} in JSON')
    model = values.pop("model", None)
    for name in ("n", "num_outputs_per_prompt"):
        values.pop(name, None)
    if "size" in values:
        width, height = values.pop("size")
        for name, number in (("width", width), ("height", height)):
            if values.setdefault(name, number) != number:
                refuse_value(name, f"must be {number} as size says, got {values[name]}; leave one of them out")
    return VideoFields(
        params={**values, "extra_params": extra},
        model=model,
        source_video=source,
        clip=body.file,
        clip_field=CLIP_FIELD[operation] or "input_reference",
    )


def read_extra_params(given: dict[str, Any], *, form: bool) -> dict[str, Any]:
    """Take ``extra_params`` out of the fields in either spelling, judged: an object (in a form its JSON text), or
    ``extra_params[name]`` in a form.

    Raises:
        ProblemError: as :func:`read_video_fields`.
    """
    whole = given.pop("extra_params", None)
    parts: dict[str, Any] = {}
    if form:
        for field in [field for field in given if field.startswith("extra_params[") and field.endswith("]")]:
            parts[field[len("extra_params[") : -1]] = given.pop(field)
    if whole is None:
        return read_fields(EXTRA, parts, form=True, prefix="extra_params.")
    if parts:
        raise invalid_body(
            f"extra_params is there as a whole and as extra_params[{next(iter(parts))}]; send one of them",
            param="extra_params",
        )
    if form:
        whole = parse_object(whole, param="extra_params")
    if not isinstance(whole, dict):
        wrong_type("extra_params", "an object", whole, form=False)
    return read_fields(EXTRA, whole, form=False, prefix="extra_params.")


def decide_mode(params: Mapping[str, Any], *, sent: bool, has_clip: bool, clip_field: str) -> dict[str, Any]:
    """The parameters with ``mode`` beside ``prompt``, ``edit`` or ``generate``, and no longer in ``extra_params``.

    Args:
        params: of the request.
        sent: whether a clip came with it, or it named a video.
        has_clip: whether there is a clip otherwise: the model's, or the first job's of a remix.
        clip_field: the field that a clip is sent in, for messages.

    Raises:
        ProblemError: 400 ``source_required``: an edit needs a clip, and there is none; ``invalid_value``: a clip was
            sent to a generation.
    """
    extra = dict(params["extra_params"])
    mode = extra.pop("mode", None) or "auto"
    if mode == "generate" and sent:
        refuse_value("extra_params.mode", f"cannot be generate with a clip; leave {clip_field} out, or edit")
    if mode == "edit" and not (sent or has_clip):
        raise ProblemError(
            400,
            "source_required",
            f"an edit needs a clip, and this model has none; send one as {clip_field} in a form",
            param=clip_field,
        )
    if mode == "auto":
        mode = "edit" if sent or has_clip else "generate"
    return {**params, "mode": mode, "extra_params": extra}


def check_size(params: Mapping[str, Any], *, width: int, height: int) -> None:
    """Check that a size that was asked for is the model's.

    Raises:
        ProblemError: 400 ``size_not_supported``.
    """
    asked = (params.get("width") or width, params.get("height") or height)
    if asked != (width, height):
        name = "size" if params.get("width") and params.get("height") else "width" if params.get("width") else "height"
        raise ProblemError(
            400,
            "size_not_supported",
            f"this model makes videos of {width}x{height} (width x height), got {asked[0]}x{asked[1]}; leave the size "
            "out, or name another model",
            param=name,
        )


def fill_num_frames(params: Mapping[str, Any], *, fps: float, max_frames: int) -> dict[str, Any]:
    """The parameters with ``num_frames`` of ``seconds`` where no ``num_frames`` is given, without ``seconds``.

    Args:
        params: of the request.
        fps: of the result where the request names none.
        max_frames: most frames of a video.

    Raises:
        ProblemError: 400 ``invalid_value``: these seconds have no frame, or more than ``max_frames``.
    """
    values = dict(params)
    seconds = values.pop("seconds", None)
    if seconds is None or values.get("num_frames") is not None:
        return values
    rate = values.get("fps") or fps
    count = round(seconds * rate)
    if not 1 <= count <= max_frames:
        refuse_value("seconds", f"must give 1 to {max_frames} frames, got {count} at {rate:g} a second")
    return {**values, "num_frames": count}


def remixed(first: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """A first job's parameters with those of its remix over them; ``extra_params`` one by one.

    ``mode`` stays the first job's unless the remix names one in its ``extra_params``, see :func:`decide_mode`.
    """
    values = {name: value for name, value in given.items() if value is not None}
    merged = {**first, **values, "extra_params": {**(first.get("extra_params") or {}), **values["extra_params"]}}
    if "seconds" in values and "num_frames" not in values:
        merged["num_frames"] = None
    if "mode" in first and "mode" not in merged["extra_params"]:
        merged["extra_params"]["mode"] = first["mode"]
    return merged


def refused(error: InputError) -> ProblemError:
    """What is said of a request that the SDK refuses: 400 with the API's name of the field."""
    code = "size_not_supported" if isinstance(error, SizeError) else "invalid_value"
    if error.field is None:
        return ProblemError(400, code, str(error))
    param = PARAMS.get(error.field, error.field)
    return ProblemError(400, code, error.named(param), param=param)


def _read_clip_field(given: dict[str, Any], operation: Operation, *, form: bool) -> str | None:
    """Take the clip's field out of the fields, where it may name a video."""
    field = CLIP_FIELD[operation]
    if field is None:
        return None
    if operation == "create":
        names = [name for name in given if name == field or name.startswith(f"{field}[")]
        for name in names:
            if given.pop(name) is not None:
                refuse_value(field, "must be a file in a form; nothing is fetched or looked up")
        return None
    if form:
        video_id = given.pop("video[id]", None)
        if given.pop(field, None) is not None:
            refuse_value(field, "must be a file, or video[id] with the id of a finished video, got a text")
        return video_id
    value = given.pop(field, None)
    if value is None:
        return None
    if not isinstance(value, dict):
        wrong_type(field, 'an object {"id": "video_..."}', value, form=False)
    for name in value:
        if name != "id":
            raise unknown(name, ["id"], prefix=f"{field}.")
    if value.get("id") is None:
        raise missing(field, 'name a finished video: {"id": "video_..."}')
    if not isinstance(value["id"], str):
        wrong_type(field, "named by the text of its id", value["id"], form=False)
    return value["id"]


def _check_file(body: Body, operation: Operation, names: list[str]) -> None:
    """Check that a file came in the field for it, and that nothing else names the clip."""
    if body.file is None:
        return
    field = body.file.field
    if field != CLIP_FIELD[operation]:
        if field in names:
            wrong_type(field, "a text", "a file", form=False)
        raise unknown(field, names)
    if "video[id]" in body.fields:
        raise invalid_body("video is there as a file and as video[id]; send one of them", param="video")
