"""Whether a job fits in memory, as ``tav plan`` computes it, before the job exists.

``python -m tav_sdk.server.memory REQUEST`` plans a tuning: it imports torch, which the server's own process never does.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tav_sdk.bundle.layout import GRAPHS
from tav_sdk.bundle.manifest import Manifest
from tav_sdk.server.problems import ProblemError
from tav_sdk.words import logger

_log = logger(__name__)

PLAN_S = 60.0
"""Longest time of a plan, in seconds; a tuning that cannot be planned is not refused."""
MAX_PLANS = 256
"""How many plans are remembered."""

_PLANNED = ("base", "num_frames", "height", "width", "preset", "precision")
_CGROUP_LIMITS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")


def machine_memory() -> int | None:
    """Bytes of memory that this machine, or this container, has; ``None``: that is not known here."""
    found = []
    with contextlib.suppress(AttributeError, OSError, ValueError):
        found.append(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    for path in _CGROUP_LIMITS:
        with contextlib.suppress(OSError, ValueError):  # no such limit, or the word max
            found.append(int(Path(path).read_text()))
    return min(found, default=None)


def check_edit_memory(manifest: Manifest, *, memory: int | None) -> None:
    """Check that a model's weights, which an edit needs in memory, fit there.

    It is the least that an edit takes: what it computes with besides is counted by torch alone, and the same for every
    edit with the model, whatever its number of frames.

    Args:
        manifest: of the model.
        memory: bytes that there are; ``None``: not known.

    Raises:
        ProblemError: 400 ``memory_exceeded``.
    """
    needed = sum(
        entry.size for path, entry in manifest.files.items() if path.split("/", 1)[0] in GRAPHS and "/" in path
    )
    if memory is not None and needed > memory:
        raise _exceeded("an edit with this model", needed, memory, "name a smaller model", param="model")


class TuningPlanner:
    """Says whether tunings fit in memory; each plan is made once, one at a time.

    Args:
        memory: bytes that there are; ``None``: as :func:`machine_memory` says.
    """

    def __init__(self, *, memory: int | None = None) -> None:
        self._memory = machine_memory() if memory is None else memory
        self._plans: dict[str, dict[str, Any]] = {}
        self._lock = asyncio.Lock()

    async def check(self, params: Mapping[str, Any]) -> None:
        """Check a tuning.

        Args:
            params: as :func:`~.tuning_fields.read_tuning_fields` gives them.

        Raises:
            ProblemError: 400 ``memory_exceeded``, or ``size_not_supported``: the base cannot be tuned at that size.
        """
        key = json.dumps({name: params.get(name) for name in _PLANNED})
        async with self._lock:
            if key not in self._plans:
                plan = await _planned(key)
                if plan is None:
                    return
                if len(self._plans) >= MAX_PLANS:
                    self._plans.pop(next(iter(self._plans)))
                self._plans[key] = plan
        plan = self._plans.get(key, {})
        if "size" in plan:
            raise ProblemError(400, "size_not_supported", plan["size"], param="size")
        for stage, peak in plan.get("peaks", {}).items():
            if self._memory is not None and peak > self._memory:
                raise _exceeded(
                    "this tuning" if stage == "tune" else "the export of this tuning",
                    peak,
                    self._memory,
                    "ask for fewer frames or a smaller size",
                    param="num_frames",
                )


async def _planned(request: str) -> dict[str, Any] | None:
    """The plan that another process makes; ``None``: it could not."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "tav_sdk.server.memory",
        request,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )
    out, said = b"", b""
    try:
        out, said = await asyncio.wait_for(process.communicate(), PLAN_S)
        return json.loads(out)
    except (TimeoutError, asyncio.TimeoutError, ValueError):  # two classes of time-outs before Python 3.11
        last = said.decode(errors="replace").strip().rpartition("\n")[2][:200]
        _log.warning("a tuning could not be planned (status %s): %s", process.returncode, last)
        return None
    finally:
        if process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()


def _exceeded(what: str, needed: int, memory: int, advice: str, *, param: str) -> ProblemError:
    message = f"{what} needs {needed / 1e9:.2f} GB of memory, and {memory / 1e9:.2f} GB are there; {advice}"
    return ProblemError(400, "memory_exceeded", message, param=param)


def main() -> None:
    """Print a plan: peaks of tuning and export in bytes, as far as they are this machine's and not a GPU's."""
    from tav_sdk.errors import SizeError
    from tav_sdk.training import InflationOptions, PretrainedBase, plan_memory

    request = json.loads(sys.argv[1])
    given = {name: request[name] for name in ("num_frames", "height", "width", "precision") if request.get(name)}
    inflation = InflationOptions(preset="original") if request.get("preset") == "original" else None
    base = PretrainedBase(request["base"], weights=False, local_files_only=True)
    try:
        planned = plan_memory(base, inflation=inflation, **given)
    except SizeError as error:
        sys.stdout.write(json.dumps({"size": str(error)}))
        return
    # Predictions for a GPU count tensors only: nobody is refused for them.
    stages = [planned[stage] for stage in ("tune", "export")]
    sys.stdout.write(json.dumps({"peaks": {stage.stage: stage.peak for stage in stages if stage.calibrated}}))


if __name__ == "__main__":
    main()
