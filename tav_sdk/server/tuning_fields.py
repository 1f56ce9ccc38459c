"""The fields of a request for a tuning, by the contract's table, as :func:`~.tunings.tune_job` takes them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tav_sdk.server.bodies import Body
from tav_sdk.server.fields import (
    Choice,
    Name,
    Number,
    Rule,
    Size,
    Text,
    Whole,
    missing,
    read_fields,
    refuse_value,
    schema_of,
    shown,
    unknown,
    wrong_type,
)
from tav_sdk.server.forms import Upload
from tav_sdk.server.problems import ProblemError
from tav_sdk.server.video_fields import PROMPT

TABLE: dict[str, Rule] = {
    "prompt": PROMPT,
    "model": Name(),
    "base": Text(least=1, most=256),
    "num_frames": Whole(least=1, most=64),
    "start": Whole(least=0, most=100_000),
    "stride": Whole(least=1, most=1000),
    "size": Size(),
    "num_train_steps": Whole(least=1, most=5000),
    "learning_rate": Number(least=0, most=1, above=True),
    "seed": Whole(least=0, most=2**63 - 1),
    "preset": Choice(of=("default", "original")),
    "precision": Choice(of=("fp32", "fp16", "bf16", "int8")),
    "user": Text(most=256),
}


@dataclass(frozen=True, kw_only=True)
class TuningFields:
    """What a request for a tuning asks for, each value judged by itself.

    Attributes:
        params: what was given and ``base``, which is always there; ``size`` is ``width`` and ``height`` here.
        model: the id of the model that is to be; ``None``: one is made up.
        clip: the file.
    """

    params: dict[str, Any]
    model: str | None
    clip: Upload


def tuning_schema() -> dict[str, Any]:
    """The request's JSON schema, for the OpenAPI document."""
    schema = schema_of(TABLE, required=("video", "prompt"))
    schema["properties"]["video"] = {"type": "string", "format": "binary"}
    return schema


def read_tuning_fields(body: Body, *, bases: Sequence[str]) -> TuningFields:
    """Judge a body's fields.

    Args:
        body: of the request.
        bases: names of bases that tunings may start from; the first is taken if none is named.

    Raises:
        ProblemError: 400 ``missing_parameter``, ``unknown_parameter``, ``invalid_type``, ``invalid_value``; 404
            ``base_not_found``.
    """
    given = dict(body.fields)
    if given.pop("video", None) is not None:
        refuse_value("video", "must be a file in a form; nothing is fetched or looked up")
    if body.file is not None and body.file.field != "video":
        if body.file.field in TABLE:
            wrong_type(body.file.field, "a text", "a file", form=False)
        raise unknown(body.file.field, ["video", *TABLE])
    values = read_fields(TABLE, given, form=body.form)
    if "prompt" not in values:
        raise missing("prompt", "say what the clip shows")
    if body.file is None:
        raise missing("video", "send the clip as a file in a form (multipart/form-data)")
    base = values.setdefault("base", bases[0] if bases else "")
    if base not in bases:
        known = ", ".join(bases) or "none"
        raise ProblemError(
            404, "base_not_found", f"there is no base {shown(base)} here; there is: {known}", param="base"
        )
    if "size" in values:
        values["width"], values["height"] = values.pop("size")
    return TuningFields(params=values, model=values.pop("model", None), clip=body.file)
