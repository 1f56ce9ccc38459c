"""Whole edits by every candidate, each in a fresh process, see :mod:`tav_sdk.export.bench.worker`."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from tav_sdk.errors import EngineError
from tav_sdk.export.bench.candidates import Candidates
from tav_sdk.export.bench.measure import progress


def time_edits(candidates: Candidates, video: Path, *, steps: int, rounds: int) -> dict[str, Any]:
    """Measure whole edits by every candidate, each in a fresh process, in turn.

    Returns:
        ``steps``, ``prompt``, and by candidate a list of what every round took: ``first_step``, ``stages`` and
        ``peak_bytes``.
    """
    manifest = candidates.bundle.manifest
    tuned = manifest.clip
    found: dict[str, list[dict[str, Any]]] = {name: [] for name in candidates.names}
    for index in range(rounds):
        for name in candidates.names:
            task = {
                "bundle": str(candidates.bundle.folder),
                "candidate": name,
                "run": str(candidates.run) if name in candidates.peers else None,
                "device": candidates.device,
                "precision": candidates.precision_of(name),
                "video": str(video),
                "prompt": manifest.prompt,
                "steps": steps,
                "start": tuned.start,
                "stride": tuned.stride,
                "began": time.time(),
            }
            done = subprocess.run(
                [sys.executable, "-m", "tav_sdk.export.bench.worker", json.dumps(task)],
                check=False,
                capture_output=True,
                text=True,
            )
            if done.returncode:
                raise EngineError(f"an edit by {name} failed: {(done.stderr.strip() or 'no message').splitlines()[-1]}")
            found[name].append(json.loads(done.stdout.splitlines()[-1]))
            total = sum(found[name][-1]["stages"].values())
            progress(f"edit {index + 1}/{rounds}: {name} {total:.1f} s")
    return {"steps": steps, "prompt": manifest.prompt, "candidates": found}
