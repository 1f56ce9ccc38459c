"""Edits over HTTP, from the request to the file."""

from __future__ import annotations

import tav_sdk
from tav_sdk import edits
from tav_sdk.request import EditRequest, InvertOptions, SampleOptions


def test_an_edit_over_http_is_that_of_the_sdk(live, clip_path, tmp_path):
    fields = {"prompt": "a blue circle", "model": "skiing", "num_inference_steps": 2}
    made = live.ask("POST", "/v1/videos", form=fields)
    assert (made.status, made.json["status"], made.json["queue_position"]) == (200, "queued", 0)
    done = live.wait(made.json)
    assert (done["status"], done["progress"], done["attempts"]) == ("completed", 100, 1)
    content = live.ask("GET", f"/v1/videos/{done['id']}/content")
    assert content.headers["Content-Type"] == "video/mp4"
    request = EditRequest(
        prompts=("a blue circle",),
        invert=InvertOptions(num_inversion_steps=2),
        sample=SampleOptions(num_inference_steps=2),
    )
    with tav_sdk.load(live.bundles / "skiing", engine="onnxruntime-cpu", cache=False) as pipeline:
        result = edits.make(request, pipeline, tmp_path / "out", video=clip_path)
    assert content.content == (result.folder / "00.mp4").read_bytes()
