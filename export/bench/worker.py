"""A process that ``tav bench`` starts: one candidate, one edit, what it took as JSON on standard output."""

from __future__ import annotations

import json
import sys
from typing import Any


def main() -> None:
    """Read what to do from the first argument, JSON; see :func:`tav_sdk.export.bench.processes.time_edits`."""
    task: dict[str, Any] = json.loads(sys.argv[1])

    from tav_sdk.bundle.bundle import Bundle
    from tav_sdk.export.bench.edit import first_step, peak_bytes, time_edit
    from tav_sdk.pipeline.pipeline import Pipeline
    from tav_sdk.video.clip import read_video

    bundle = Bundle(task["bundle"], verify=False)
    if task["run"] is None:
        pipeline = Pipeline(bundle, engine=task["candidate"], cache=False)
    else:
        from tav_sdk.export.bench.peers import peer_engines
        from tav_sdk.training.run_folder import load_run

        engines = peer_engines(
            task["candidate"], load_run(task["run"]), bundle, device=task["device"], precision=task["precision"]
        )
        pipeline = Pipeline(bundle, engines=engines, cache=False)
    manifest = bundle.manifest
    with pipeline:
        cold = first_step(pipeline, task["prompt"]) - task["began"]

        def read() -> Any:
            return read_video(
                task["video"],
                num_frames=manifest.num_frames,
                start=task["start"],
                stride=task["stride"],
                size=(manifest.height, manifest.width),
            )

        time_edit(pipeline, read, task["prompt"], steps=1)  # opens the other engines
        seconds = time_edit(pipeline, read, task["prompt"], steps=task["steps"])
    sys.stdout.write(json.dumps({"first_step": cold, "stages": seconds, "peak_bytes": peak_bytes()}) + "\n")


if __name__ == "__main__":
    main()
