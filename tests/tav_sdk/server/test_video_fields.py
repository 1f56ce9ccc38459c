"""The tables of video requests: what is taken, and how each refusal names its field."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tav_sdk.errors import InputError, SizeError
from tav_sdk.request import EditRequest, GenerateRequest
from tav_sdk.server.bodies import Body
from tav_sdk.server.forms import Upload
from tav_sdk.server.problems import ProblemError
from tav_sdk.server.video_fields import (
    EXTRA,
    Operation,
    check_size,
    decide_mode,
    fill_num_frames,
    read_video_fields,
    refused,
    remixed,
    video_schema,
    video_table,
)
from tav_sdk.server.video_request import request_of

CLIP = Upload(field="input_reference", path=Path("clip"), size=1, sha256="0" * 64)
VIDEO = Upload(field="video", path=Path("clip"), size=1, sha256="0" * 64)


def read(fields: dict[str, Any], operation: Operation = "create", *, form=False, file=None, **more):
    given = fields if "prompt" in fields else {"prompt": "a panda", **fields}
    body = Body(fields=given, file=file, form=form, sha256="")
    return read_video_fields(body, operation, max_frames=512, **more)


def problem(call, *args, **more) -> tuple[int, str, str | None, str]:
    with pytest.raises(ProblemError) as caught:
        call(*args, **more)
    error = caught.value.body["error"]
    assert error["type"] == "invalid_request_error"
    json.dumps(error, ensure_ascii=False).encode()
    return caught.value.status, error["code"], error["param"], error["message"]


def test_json_and_both_spellings_of_a_form_mean_the_same():
    extra = {
        "mode": "edit",
        "num_inversion_steps": 3,
        "inversion_prompt": "a bear\nis skiing",
        "correction": "direct",
        "fast": False,
        "adapter_scale": 1.5,
        "start": 0,
        "stride": 2,
        "preview": True,
    }
    fields = {
        "prompt": "a panda\tis skiing\n",
        "model": "skiing",
        "size": "512x320",
        "num_frames": 8,
        "seconds": "2.5",
        "fps": 12,
        "num_inference_steps": 5,
        "guidance_scale": 7.5,
        "seed": 2**63 - 1,
        "negative_prompt": "",
        "user": "ann",
        "n": 1,
        "num_outputs_per_prompt": 1,
    }
    as_json = read({**fields, "extra_params": extra})
    assert as_json.model == "skiing"
    assert as_json.params == {
        **{name: fields[name] for name in fields if name not in ("model", "size", "n", "num_outputs_per_prompt")},
        "seconds": 2.5,
        "width": 512,
        "height": 320,
        "extra_params": extra,
    }
    texts = {name: str(value) for name, value in fields.items()}
    whole = read({**texts, "extra_params": json.dumps(extra)}, form=True)
    words = {
        f"extra_params[{name}]": str(value).lower() if isinstance(value, bool) else str(value)
        for name, value in extra.items()
    }
    parts = read({**texts, **words}, form=True)
    assert as_json == whole == parts


def test_null_is_not_given():
    names = [*video_table("create", max_frames=512), "extra_params", "input_reference"]
    nothing = read({name: None for name in names if name != "prompt"})
    assert nothing == read({})
    assert nothing.params == {"prompt": "a panda", "extra_params": {}}
    assert read({"extra_params": dict.fromkeys(EXTRA)}) == nothing
    assert problem(read, {"prompt": None})[1:3] == ("missing_parameter", "prompt")
    assert read({"video": {"id": "video_1"}}, "edit").source_video == "video_1"
    assert problem(read, {"video": None}, "edit")[1:3] == ("missing_parameter", "video")


@pytest.mark.parametrize(
    ("name", "wrong_types", "wrong_values", "right"),
    [
        ("prompt", [5, True, [], {}], ["", " \n", "a" * 2001, "a\x00", "a\r", "a\x7f", "\x85", "\ud800"], ["é" * 2000]),
        ("model", [5], ["", "a" * 257], ["skiing"]),
        ("size", [512, [512, 320]], ["512", "512x", "512X320", "0x320", "01x3", "8193x1", "5 x 3", "٣x٣"], ["8192x1"]),
        ("width", ["5", True, 5.0, []], [0, 8193, -1, 10**400], [1, 8192]),
        ("height", ["5", True, 5.5], [0, 8193], [1, 8192]),
        ("num_frames", ["5", False, 1e300], [0, 513], [1, 512]),
        ("seconds", [4, 4.0, True], ["", "0", "-1", "1e999", "NaN", "0x1", " 1", "1_0", "٣", "86401"], ["0.5", "1e1"]),
        ("fps", ["5", True, {}], [0, 0.9, 120.1, -1], [1, 120, 23.976]),
        ("num_inference_steps", ["5", 2.0], [0, 201], [1, 200]),
        ("guidance_scale", ["7", True], [-0.1, 20.1, 10**400], [0, 20, 7.5]),
        ("seed", ["1", 1.0], [-1, 2**63], [0, 2**63 - 1]),
        ("negative_prompt", [0], ["a" * 2001, "\x1b", "\ud800"], ["", "a" * 2000]),
        ("user", [7], ["a" * 257, "\ud800"], ["", "a" * 256]),
        ("n", ["1", True, 1.0], [0, 2], [1]),
        ("num_outputs_per_prompt", ["1"], [2], [1]),
        ("extra_params", ["{}", [], 5, True], [], [{}]),
        ("extra_params.mode", [1], ["", "Edit", "video"], ["auto", "edit", "generate"]),
        ("extra_params.num_inversion_steps", ["5", 2.0], [0, 201], [1, 200]),
        ("extra_params.inversion_prompt", [5], ["a" * 2001, "\x00"], ["", "a"]),
        ("extra_params.correction", [True], ["negative_prompt"], ["none", "negative-prompt", "direct"]),
        ("extra_params.fast", ["true", 1, 0], [], [True, False]),
        ("extra_params.adapter_scale", ["1", True], [-0.1, 2.1], [0, 2]),
        ("extra_params.start", ["1", 1.0], [-1, 100_001], [0, 100_000]),
        ("extra_params.stride", ["1"], [0, 1001], [1, 1000]),
        ("extra_params.preview", ["false", 0], [], [True]),
    ],
)  # fmt: skip
def test_each_field_has_its_type_and_limits(name, wrong_types, wrong_values, right):
    outer, _, inner = name.partition(".")
    for code, values in (("invalid_type", wrong_types), ("invalid_value", wrong_values)):
        for value in values:
            status, got, param, message = problem(read, {outer: {inner: value} if inner else value})
            assert (status, got, param) == (400, code, name), value
            assert message.startswith(f"{name} must ")
            assert len(message) < 300
    for value in right:
        read({outer: {inner: value} if inner else value})


@pytest.mark.parametrize(
    ("field", "wrong", "param", "code"),
    [
        ("num_frames", ["", " 5", "5.0", "+5", "5_0", "0x5", "٣", "a", "9" * 5000], "num_frames", "invalid_type"),
        ("num_frames", ["-1", "0", "513"], "num_frames", "invalid_value"),
        ("guidance_scale", ["", "nan", "inf", "7,5", ".5", "1_0", "0x1"], "guidance_scale", "invalid_type"),
        ("guidance_scale", ["1e400", "-1"], "guidance_scale", "invalid_value"),
        ("extra_params[fast]", ["True", "1", "", "yes"], "extra_params.fast", "invalid_type"),
        ("extra_params[start]", ["-1"], "extra_params.start", "invalid_value"),
        ("extra_params", ["[]", "5", "null", '"a"'], "extra_params", "invalid_type"),
        ("extra_params", ["", "{", '{"fast": NaN}', '{"fast": true, "fast": true}'], "extra_params", "invalid_json"),
        ("extra_params", ['{"fast": "true"}'], "extra_params.fast", "invalid_type"),
        ("prompt", ["", "\n", "a\x00"], "prompt", "invalid_value"),
    ],
)  # fmt: skip
def test_forms_have_texts(field, wrong, param, code):
    for text in wrong:
        status, got, named, _ = problem(read, {field: text}, form=True)
        assert (status, got, named) == (400, code, param), text


def test_numbers_of_forms_are_taken():
    params = read({"num_frames": "007", "guidance_scale": "7.5", "fps": "1e1", "seed": "0"}, form=True).params
    assert params == {
        "prompt": "a panda",
        "num_frames": 7,
        "guidance_scale": 7.5,
        "fps": 10.0,
        "seed": 0,
        "extra_params": {},
    }


@pytest.mark.parametrize(
    ("fields", "form", "param", "said"),
    [
        ({"guidance_scal": 7}, False, "guidance_scal", "did you mean guidance_scale?"),
        ({"frobnicate": None}, False, "frobnicate", "leave it out"),
        ({"": 1}, False, "", "leave it out"),
        ({"x" * 5000: 1}, False, "x" * 100 + "...", "leave it out"),
        ({"extra_params": {"correctoin": "none"}}, False, "extra_params.correctoin", "mean extra_params.correction?"),
        ({"extra_params": {"seed": 1}}, False, "extra_params.seed", "leave it out"),
        ({"extra_params[correctoin]": "none"}, True, "extra_params.correctoin", "mean extra_params.correction?"),
        ({"extra_params[]": "none"}, True, "extra_params.", "leave it out"),
        ({"extra_params[fast][x]": "true"}, True, "extra_params.fast][x", "there is no field"),
        ({"extra_params[fast": "true"}, True, "extra_params[fast", "there is no field"),
        ({"extra_params[fast]": True}, False, "extra_params[fast]", "there is no field"),
        ({"correction": "none"}, False, "correction", "there is no field"),
        ({"video": {"id": "video_1"}}, False, "video", "leave it out"),
    ],
)
def test_a_field_that_there_is_not_is_refused(fields, form, param, said):
    status, code, named, message = problem(read, fields, form=form)
    assert (status, code, named) == (400, "unknown_parameter", param)
    assert said in message


def test_two_spellings_at_once_are_refused():
    given = {"extra_params": "{}", "extra_params[fast]": "true"}
    assert problem(read, given, form=True)[1:3] == ("invalid_body", "extra_params")
    assert problem(read, {"size": "64x32", "width": 32})[1:3] == ("invalid_value", "width")
    assert read({"size": "64x32", "width": 64}).params["height"] == 32


def test_a_clip_is_a_file_and_nothing_else():
    assert read({}, form=True, file=CLIP).clip is CLIP
    for value in ("http://localhost/a.mp4", {"image_url": "http://a"}, {"file_id": "file-1"}, 5, []):
        status, code, param, message = problem(read, {"input_reference": value})
        assert (status, code, param) == (400, "invalid_value", "input_reference")
        assert "nothing is fetched" in message
    for name in ("input_reference", "input_reference[image_url]"):
        assert problem(read, {name: "http://a"}, form=True)[1:3] == ("invalid_value", "input_reference")
    for field, code in (("video", "unknown_parameter"), ("prompt", "invalid_type"), ("x", "unknown_parameter")):
        file = Upload(field=field, path=Path("clip"), size=1, sha256="")
        assert problem(read, {}, form=True, file=file)[1:3] == (code, field)
    assert problem(read, {}, "remix", form=True, file=CLIP)[1:3] == ("unknown_parameter", "input_reference")


def test_an_edit_names_a_video_or_sends_one():
    assert read({"video": {"id": "video_1"}}, "edit").source_video == "video_1"
    assert read({"video[id]": "video_1"}, "edit", form=True).source_video == "video_1"
    assert read({}, "edit", form=True, file=VIDEO).clip is VIDEO
    assert problem(read, {}, "edit")[1:3] == ("missing_parameter", "video")
    assert problem(read, {"video": {}}, "edit")[1:3] == ("missing_parameter", "video")
    assert problem(read, {"video": "video_1"}, "edit")[1:3] == ("invalid_type", "video")
    assert problem(read, {"video": {"id": 5}}, "edit")[1:3] == ("invalid_type", "video")
    assert problem(read, {"video": {"id": "a", "url": "b"}}, "edit")[1:3] == ("unknown_parameter", "video.url")
    assert problem(read, {"video": "video_1"}, "edit", form=True)[1:3] == ("invalid_value", "video")
    assert problem(read, {"video[id]": "video_1"}, "edit", form=True, file=VIDEO)[1:3] == ("invalid_body", "video")
    assert problem(read, {}, "edit", form=True, file=CLIP)[1:3] == ("unknown_parameter", "input_reference")
    assert problem(read, {"input_reference": "a"}, "edit")[1:3] == ("unknown_parameter", "input_reference")


def test_a_remix_takes_everything_but_a_model_and_files():
    assert read({"seed": 1}, "remix").params["seed"] == 1
    assert problem(read, {"model": "a"}, "remix")[1:3] == ("unknown_parameter", "model")
    assert problem(read, {"video": {"id": "a"}}, "remix")[1:3] == ("unknown_parameter", "video")
    first = {
        "prompt": "a bear",
        "mode": "edit",
        "num_frames": 8,
        "seed": 3,
        "extra_params": {"fast": True, "stride": 2},
    }
    given = read({"prompt": "a panda", "seconds": "2", "extra_params": {"fast": False}}, "remix").params
    merged = decide_mode(remixed(first, given), sent=False, has_clip=True, clip_field="input_reference")
    assert fill_num_frames(merged, fps=12, max_frames=512) == {
        "prompt": "a panda",
        "mode": "edit",
        "num_frames": 24,
        "seed": 3,
        "extra_params": {"fast": False, "stride": 2},
    }
    generate = read({"extra_params": {"mode": "generate"}}, "remix").params
    assert decide_mode(remixed(first, generate), sent=False, has_clip=True, clip_field="")["mode"] == "generate"
    assert first["extra_params"] == {"fast": True, "stride": 2}


@pytest.mark.parametrize(
    ("asked", "sent", "has_clip", "mode"),
    [
        (None, False, False, "generate"),
        (None, False, True, "edit"),
        (None, True, False, "edit"),
        ("auto", False, True, "edit"),
        ("edit", True, False, "edit"),
        ("edit", False, True, "edit"),
        ("generate", False, True, "generate"),
    ],
)
def test_the_mode_follows_from_the_clip(asked, sent, has_clip, mode):
    params = read({"extra_params": {"mode": asked}}).params
    decided = decide_mode(params, sent=sent, has_clip=has_clip, clip_field="input_reference")
    assert decided["mode"] == mode
    assert "mode" not in decided["extra_params"]
    assert isinstance(request_of(decided), EditRequest if mode == "edit" else GenerateRequest)


def test_an_edit_needs_a_clip_and_a_generation_none():
    edit = read({"extra_params": {"mode": "edit"}}).params
    status, code, param, message = problem(decide_mode, edit, sent=False, has_clip=False, clip_field="input_reference")
    assert (status, code, param) == (400, "source_required", "input_reference")
    assert "an edit needs a clip" in message
    generate = read({"extra_params": {"mode": "generate"}}).params
    got = problem(decide_mode, generate, sent=True, has_clip=True, clip_field="video")
    assert got[1:3] == ("invalid_value", "extra_params.mode")


def test_only_the_models_size_is_made():
    for params in ({}, {"width": 64}, {"height": 32}, {"width": 64, "height": 32}):
        check_size(params, width=64, height=32)
    for params, param in (({"width": 32}, "width"), ({"height": 64}, "height"), ({"width": 32, "height": 64}, "size")):
        status, code, named, message = problem(check_size, params, width=64, height=32)
        assert (status, code, named) == (400, "size_not_supported", param)
        assert "videos of 64x32 (width x height), got" in message


def test_seconds_are_frames():
    def frames(**params):
        return fill_num_frames(params, fps=12, max_frames=100)

    assert frames(seconds=2.0) == {"num_frames": 24}
    assert frames(seconds=2.0, fps=30.0) == {"num_frames": 60, "fps": 30.0}
    assert frames(seconds=2.0, num_frames=5) == {"num_frames": 5}
    assert frames(prompt="a") == {"prompt": "a"}
    for seconds in (0.01, 9.0):
        status, code, param, message = problem(frames, seconds=seconds)
        assert (status, code, param) == (400, "invalid_value", "seconds")
        assert "1 to 100 frames" in message


@pytest.mark.parametrize(
    ("params", "param", "said"),
    [
        ({"extra_params": {"fast": True, "correction": "direct"}}, "extra_params.correction", "cannot be direct with"),
        (
            {"negative_prompt": "dull", "extra_params": {"correction": "negative-prompt"}},
            "negative_prompt",
            "must be empty with the correction",
        ),
        (
            {"extra_params": {"inversion_prompt": " ", "correction": "negative-prompt"}},
            "extra_params.inversion_prompt",
            "must say what the clip shows",
        ),
    ],
)
def test_what_the_sdk_refuses_has_the_apis_names(params, param, said):
    with pytest.raises(InputError) as caught:
        request_of({**read(params).params, "mode": "edit"})
    error = refused(caught.value)
    assert (error.status, error.code, error.param) == (400, "invalid_value", param)
    assert error.message.startswith(f"{param} {said}")
    assert refused(InputError("no field")).body["error"]["param"] is None
    assert refused(SizeError("must be 64", field="size")).code == "size_not_supported"


def test_the_tables_describe_themselves():
    schema = video_schema("create", max_frames=512, form=True)
    assert schema["required"] == ["prompt"]
    assert schema["properties"]["num_frames"] == {"type": "integer", "minimum": 1, "maximum": 512}
    assert schema["properties"]["input_reference"] == {"type": "string", "format": "binary"}
    assert schema["properties"]["extra_params"]["properties"]["fast"] == {"type": "boolean"}
    assert "model" not in video_schema("remix", max_frames=512, form=False)["properties"]
    assert video_schema("edit", max_frames=512, form=False)["required"] == ["prompt", "video"]
    json.dumps(schema)
