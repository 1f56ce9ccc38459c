"""Which device each worker has: the GPUs, or a share of the processor's cores."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

VISIBLE = "CUDA_VISIBLE_DEVICES"
THREADS = "TAV_NUM_THREADS"


def worker_environment(
    index: int, *, workers: int, engine: str, environ: Mapping[str, str], num_gpus: int, cores: int
) -> dict[str, str]:
    """What a worker's environment says of its device, besides the server's own.

    Args:
        index: which worker, from 0.
        workers: how many there are; one alone has everything.
        engine: what runs the bundles, as in :func:`tav_sdk.load`.
        environ: the server's; its :data:`VISIBLE` limits and orders the GPUs, its :data:`THREADS` is left as it is.
        num_gpus: how many the machine has.
        cores: how many this process may use.
    """
    if workers == 1:
        return {}
    given = environ.get(VISIBLE)
    gpus = [str(gpu) for gpu in range(num_gpus)]
    if given is not None:
        gpus = [name.strip() for name in given.split(",") if name.strip() not in ("", "-1")]
    if gpus and not engine.endswith("-cpu"):
        return {VISIBLE: gpus[index % len(gpus)]}
    return {} if THREADS in environ else {THREADS: str(max(1, cores // workers))}


def count_gpus() -> int:
    """How many NVIDIA GPUs this machine has, by their device files; 0 where there are none."""
    return len([path for path in Path("/dev").glob("nvidia[0-9]*") if path.name[6:].isdigit()])


def count_cores() -> int:
    """How many cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
