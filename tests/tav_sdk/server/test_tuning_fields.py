"""The table of tuning requests."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tav_sdk.server.bodies import Body
from tav_sdk.server.forms import Upload
from tav_sdk.server.problems import ProblemError
from tav_sdk.server.tuning_fields import TABLE, read_tuning_fields, tuning_schema

CLIP = Upload(field="video", path=Path("clip"), size=1, sha256="0" * 64)


def read(fields: dict[str, Any], *, file: Upload | None = CLIP, form=True, bases=("pocket", "mine")):
    given = fields if "prompt" in fields else {"prompt": "a man", **fields}
    return read_tuning_fields(Body(fields=given, file=file, form=form, sha256=""), bases=bases)


def problem(fields: dict[str, Any], **more) -> tuple[int, str, str | None, str]:
    with pytest.raises(ProblemError) as caught:
        read(fields, **more)
    error = caught.value.body["error"]
    return caught.value.status, error["code"], error["param"], error["message"]


def test_a_tuning_has_a_clip_and_a_caption():
    tuning = read({})
    assert (tuning.params, tuning.model, tuning.clip) == ({"prompt": "a man", "base": "pocket"}, None, CLIP)
    assert problem({"prompt": None}, form=False)[:3] == (400, "missing_parameter", "prompt")
    status, code, param, message = problem({}, file=None)
    assert (status, code, param) == (400, "missing_parameter", "video")
    assert "as a file in a form" in message
    assert problem({"video": "http://a"}, file=None)[1:3] == ("invalid_value", "video")
    for field, code in (("input_reference", "unknown_parameter"), ("prompt", "invalid_type")):
        file = Upload(field=field, path=Path("clip"), size=1, sha256="")
        assert problem({}, file=file)[1:3] == (code, field)


def test_everything_can_be_given():
    tuning = read(
        {
            "model": "my.model-1_a",
            "base": "mine",
            "num_frames": "64",
            "start": "3",
            "stride": "2",
            "size": "96x64",
            "num_train_steps": "5000",
            "learning_rate": "3e-5",
            "seed": "33",
            "preset": "original",
            "precision": "int8",
            "user": "ann",
        }
    )
    assert tuning.model == "my.model-1_a"
    assert tuning.params == {
        "prompt": "a man",
        "base": "mine",
        "num_frames": 64,
        "start": 3,
        "stride": 2,
        "width": 96,
        "height": 64,
        "num_train_steps": 5000,
        "learning_rate": 3e-5,
        "seed": 33,
        "preset": "original",
        "precision": "int8",
        "user": "ann",
    }


@pytest.mark.parametrize(
    ("name", "wrong_types", "wrong_values"),
    [
        ("prompt", [], ["", " ", "a" * 2001]),
        ("model", [], ["", "A", "-a", ".a", "a/b", "..", "a" * 65, "a\n", "é"]),
        ("num_frames", ["", "a"], ["0", "65"]),
        ("start", ["1.0"], ["-1", "100001"]),
        ("stride", [""], ["0", "1001"]),
        ("size", [], ["64", "64x64x64"]),
        ("num_train_steps", ["a"], ["0", "5001"]),
        ("learning_rate", ["a"], ["0", "1.1", "-1"]),
        ("seed", ["a"], ["-1", str(2**63)]),
        ("preset", [], ["paper"]),
        ("precision", [], ["fp8"]),
        ("user", [], ["a" * 257]),
    ],
)
def test_each_field_has_its_type_and_limits(name, wrong_types, wrong_values):
    for code, values in (("invalid_type", wrong_types), ("invalid_value", wrong_values)):
        for value in values:
            status, got, param, message = problem({name: value})
            assert (status, got, param) == (400, code, name), value
            assert message.startswith(f"{name} must ")


def test_bases_are_names_that_the_server_knows():
    for base in ("sd14", "../pocket", "/etc", "CompVis/stable-diffusion-v1-4", "POCKET"):
        status, code, param, message = problem({"base": base})
        assert (status, code, param) == (404, "base_not_found", "base")
        assert message.endswith("there is: pocket, mine")
    assert problem({}, bases=())[1] == "base_not_found"


def test_unknown_fields_are_refused():
    status, code, param, message = problem({"num_train_step": "3"})
    assert (status, code, param) == (400, "unknown_parameter", "num_train_step")
    assert "did you mean num_train_steps?" in message
    assert problem({"gradient_checkpointing": "true"})[2] == "gradient_checkpointing"


def test_the_table_describes_itself():
    schema = tuning_schema()
    assert set(schema["properties"]) == {*TABLE, "video"}
    assert schema["properties"]["learning_rate"] == {"type": "number", "exclusiveMinimum": 0, "maximum": 1}
