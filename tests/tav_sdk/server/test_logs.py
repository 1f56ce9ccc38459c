"""The server's log: lines of JSON that programs can follow, and no prompts."""

from __future__ import annotations

import json
import time

from tests.tav_sdk.server.live_server import serving

SECRET = "a zebra in pyjamas"


def test_a_job_can_be_followed_through_the_log_and_its_prompt_is_not_there(server_bundles, tmp_path):
    options = ("--engine", "onnxruntime-cpu", "--log-format", "json")
    with serving(server_bundles, tmp_path / "state", *options) as server:
        fields = {
            "prompt": SECRET,
            "negative_prompt": SECRET,
            "model": "skiing",
            "num_inference_steps": 2,
            "user": SECRET,
        }
        made = server.ask("POST", "/v1/videos", form=fields, headers={"X-Request-Id": "mine-1"}).json
        server.wait(made)
        server.ask("GET", f"/v1/videos/{made['id']}")
        refused = server.ask("POST", "/v1/videos", form={"prompt": SECRET, "model": "skiing", "seed": SECRET})
        assert refused.status == 400
        server.ask("GET", f"/v1/videos/{SECRET.replace(' ', '-')}")
        time.sleep(0.2)
        lines = [json.loads(line) for line in server.lines]  # every one is JSON
    assert "zebra" not in " ".join(server.lines)
    own = [line["message"].partition(" ")[0] for line in lines if line.get("job_id") == made["id"]]
    assert own[:4] == ["video.queued", "video.in_progress", "video.completed", "GET"] or "video.completed" in own
    (queued,) = [line for line in lines if line["message"].startswith("video.queued")]
    assert queued["request_id"] == "mine-1"
    (posted,) = [line for line in lines if line.get("request_id") == "mine-1" and line["message"].startswith("POST")]
    assert posted["message"] == "POST /v1/videos 200"
    assert posted["level"] == "info"
    assert posted["seconds"] >= 0
