"""What clients see of jobs: OpenAI's Video object with more fields, and the tuning's (section 3 of the contract)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from tav_sdk.server.jobs import Event, Job

Estimate = Callable[[Job], "float | None"]
"""Seconds until a job's end, if that can be said."""


def view(job: Job, position: int | None, *, estimate: Estimate | None = None, keep_days: float = 0) -> dict[str, Any]:
    """A job as clients see it.

    Args:
        job: a video's or a tuning's.
        position: how many wait before it; ``None`` unless it waits.
        estimate: says how long it will take.
        keep_days: after so many days its files go; 0: never.
    """
    eta = None if estimate is None or job.ended else estimate(job)
    common = {
        "id": job.id,
        "object": job.kind,
        "status": job.status,
        "progress": job.progress,
        "created_at": int(job.created_at),
        "started_at": _whole(job.started_at),
        "completed_at": _whole(job.completed_at),
        "model": job.model,
        "prompt": job.params["prompt"],
        "error": None if job.failure is None else {"code": job.failure.code, "message": job.failure.message},
        "queue_position": position,
        "stage": job.stage,
        "step": job.step,
        "total_steps": job.total,
        "eta_s": None if eta is None else round(eta, 1),
        "attempts": job.attempts,
        "user": job.params.get("user"),
    }
    return {**common, **(_of_a_video(job, keep_days) if job.kind == "video" else _of_a_tuning(job))}


def event_view(event: Event) -> dict[str, Any]:
    """An event as it is in lists."""
    return {
        "object": "video.event" if event.type.startswith("video.") else "tuning.event",
        "id": event.k,
        "type": event.type,
        "created_at": int(event.at),
        "data": event.data,
    }


def page(items: list[Mapping[str, Any]], has_more: bool) -> dict[str, Any]:
    """A list as clients see it."""
    return {
        "object": "list",
        "data": items,
        "first_id": items[0]["id"] if items else None,
        "last_id": items[-1]["id"] if items else None,
        "has_more": has_more,
    }


def _of_a_video(job: Job, keep_days: float) -> dict[str, Any]:
    p, result = job.params, job.result
    frames, fps = p.get("num_frames"), p.get("fps") or result.get("fps") or p.get("source_fps")
    return {
        "expires_at": None if not keep_days or job.completed_at is None else int(job.completed_at + keep_days * 86400),
        "warnings": list(job.warnings),
        "seconds": f"{frames / fps:g}" if frames and fps else None,
        "size": f"{p['width']}x{p['height']}",
        "remixed_from_video_id": job.remixed_from,
        "mode": p["mode"],
        "num_frames": frames,
        "fps": fps,
        "num_inference_steps": p.get("num_inference_steps"),
        "guidance_scale": p.get("guidance_scale"),
        "seed": p.get("seed"),
        "negative_prompt": p.get("negative_prompt"),
        "extra_params": p.get("extra_params") or {},
        "width": p["width"],
        "height": p["height"],
        "inference_time_s": result.get("inference_time_s"),
        "stage_durations": result.get("stage_durations"),
        "peak_memory_mb": result.get("peak_memory_mb"),
        "media_type": "video/mp4",
    }


def _of_a_tuning(job: Job) -> dict[str, Any]:
    return {
        "base": job.params["base"],
        "num_train_steps": job.params.get("num_train_steps"),
        "loss": job.result.get("loss"),
        "snapshots": job.result.get("snapshots") or [],
        "result_model": job.model if job.status == "completed" else None,
    }


def _whole(moment: float | None) -> int | None:
    return None if moment is None else int(moment)
