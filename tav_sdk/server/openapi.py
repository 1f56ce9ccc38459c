"""The OpenAPI document: every route with its requests and answers, from the tables that requests are judged by."""

from __future__ import annotations

from typing import Any

from tav_sdk.server.problems import ProblemError
from tav_sdk.server.settings import ServerSettings
from tav_sdk.server.tuning_fields import tuning_schema
from tav_sdk.server.video_fields import Operation, video_schema
from tav_sdk.version import __version__

_INT, _STR, _NUM, _BOOL = {"type": "integer"}, {"type": "string"}, {"type": "number"}, {"type": "boolean"}
_ERROR_TYPES = [
    "invalid_request_error",
    "authentication_error",
    "permission_error",
    "rate_limit_error",
    "server_error",
]
CODES: dict[int, tuple[str, ...]] = {
    400: (
        "invalid_value",
        "invalid_json",
        "invalid_body",
        "missing_parameter",
        "unknown_parameter",
        "invalid_type",
        "model_required",
        "size_not_supported",
        "source_required",
        "source_not_ready",
        "invalid_video",
        "video_too_large",
        "video_too_short",
        "memory_exceeded",
        "model_exists",
        "not_cancellable",
    ),
    401: ("invalid_token",),
    403: ("origin_not_allowed", "host_not_allowed", "model_protected"),
    404: (
        "video_not_found",
        "not_found",
        "tuning_not_found",
        "model_not_found",
        "base_not_found",
        "video_not_ready",
        "video_expired",
    ),
    405: ("method_not_allowed",),
    408: ("request_timeout",),
    413: ("body_too_large",),
    415: ("unsupported_media_type", "unsupported_content_encoding"),
    416: ("invalid_value",),
    422: ("idempotency_conflict", "video_failed"),
    429: ("queue_full", "rate_limited"),
    431: ("head_too_large",),
    500: ("internal_error",),
    501: ("not_supported", "tuning_unavailable"),
    503: ("shutting_down", "too_many_connections"),
    504: ("sync_timeout",),
    507: ("storage_full",),
}
"""What errors of each status may be called; the first one is the example."""
_EXAMPLES = {
    "create": {"prompt": "a panda is skiing", "model": "skiing", "guidance_scale": 7.5, "seed": 1},
    "edit": {"prompt": "a panda is skiing", "video": {"id": "video_0123456789abcdef0123456789abcdef"}},
    "remix": {"prompt": "a fox is skiing"},
}
_COMMON = {
    "id": _STR,
    "status": {"enum": ["queued", "in_progress", "completed", "failed"]},
    "progress": {"type": "integer", "minimum": 0, "maximum": 100},
    "created_at": _INT,
    "started_at": {"type": ["integer", "null"]},
    "completed_at": {"type": ["integer", "null"]},
    "model": _STR,
    "prompt": _STR,
    "error": {
        "type": ["object", "null"],
        "properties": {"code": _STR, "message": _STR},
        "required": ["code", "message"],
    },
    "queue_position": {"type": ["integer", "null"], "minimum": 0},
    "stage": {"type": ["string", "null"]},
    "step": _INT,
    "total_steps": _INT,
    "eta_s": {"type": ["number", "null"]},
    "attempts": {"type": "integer", "minimum": 0},
    "user": {"type": ["string", "null"]},
}


def document(settings: ServerSettings) -> dict[str, Any]:
    """The document of a server that was started so."""
    most = settings.max_frames
    videos, tunings = "/v1/videos", "/v1/tunings"
    create, edit, remix = (_form_or_json(operation, most) for operation in ("create", "edit", "remix"))
    made = (400, 403, 404, 408, 413, 415, 422, 429, 503, 507)
    video, tuning = _json("Video"), _json("Tuning")
    file = {
        "description": "the file",
        "content": {
            kind: {"schema": {"type": "string", "format": "binary"}}
            for kind in ("video/mp4", "image/webp", "image/png")
        },
    }
    events = {
        "description": "the events as a stream, or as a list",
        "content": {
            "text/event-stream": {"schema": _STR},
            "application/json": {"schema": _ref("EventList")},
        },
    }
    key = _header("Idempotency-Key", "the same key and body within 24 hours give the first job again")
    last = _header("Last-Event-ID", "the last event that was seen")
    listed = [
        _query("limit", {"type": "integer", "minimum": 1, "maximum": 100, "default": 20}),
        _query("after", _STR),
        _query("order", {"enum": ["asc", "desc"], "default": "desc"}),
    ]
    listed_events = [
        _query("limit", {"type": "integer", "minimum": 1, "maximum": 100, "default": 20}),
        _query("after", {"type": "integer", "minimum": 0, "maximum": 2**31}),
        last,
    ]
    variant = _query("variant", {"enum": ["video", "thumbnail", "spritesheet", "sheet"], "default": "video"})
    one, two = _path("video_id"), _path("tuning_id")
    paths: dict[str, Any] = {
        videos: {
            "post": _operation("Queue an edit or a generation", video, made, body=create, parameters=[key]),
            "get": _operation("List your videos, the newest first", _json("VideoList"), (400,), parameters=listed),
        },
        f"{videos}/edits": {
            "post": _operation(
                "Queue an edit of a clip, or of a finished video", video, made, body=edit, parameters=[key]
            )
        },
        f"{videos}/sync": {
            "post": _operation(
                "Make a video and wait for it",
                {
                    "description": "the video",
                    "content": {"video/mp4": {"schema": {"type": "string", "format": "binary"}}},
                },
                (*made, 504),
                body=create,
                parameters=[key],
            )
        },
        f"{videos}/{{video_id}}": {
            "get": _operation("One video, as it is now", video, (404,), parameters=[one]),
            "delete": _operation("Stop it, and remove it and its files", _json("Deleted"), (404,), parameters=[one]),
        },
        f"{videos}/{{video_id}}/remix": {
            "post": _operation(
                "The same source and settings, a new prompt", video, made, body=remix, parameters=[one, key]
            )
        },
        f"{videos}/{{video_id}}/content": {
            "get": _operation(
                "The files of a finished video", file, (400, 404, 416, 422), parameters=[one, variant], more={206: file}
            )
        },
        f"{videos}/{{video_id}}/preview": {
            "get": _operation(
                "The newest preview picture of a running job",
                {
                    "description": "the picture",
                    "content": {"image/webp": {"schema": {"type": "string", "format": "binary"}}},
                },
                (404,),
                parameters=[one],
            )
        },
        f"{videos}/{{video_id}}/events": {
            "get": _operation("What happened to it", events, (400, 404), parameters=[one, *listed_events])
        },
        f"{videos}/{{video_id}}/cancel": {
            "post": _operation("Stop it, keep its record", video, (400, 404), parameters=[one])
        },
        f"{videos}/extensions": {"post": _operation("Not supported", None, (501,))},
        f"{videos}/characters": {"post": _operation("Not supported", None, (501,))},
        "/v1/events": {
            "get": _operation(
                "Events of all your jobs in one stream",
                {"description": "a stream without end", "content": {"text/event-stream": {"schema": _STR}}},
                (400,),
                parameters=[last],
            )
        },
        tunings: {
            "post": _operation(
                "Tune on a clip; makes a model",
                tuning,
                (*made, 501),
                body={"multipart/form-data": {"schema": tuning_schema()}},
                parameters=[key],
            ),
            "get": _operation("List your tunings, the newest first", _json("TuningList"), (400,), parameters=listed),
        },
        f"{tunings}/{{tuning_id}}": {
            "get": _operation("One tuning, as it is now", tuning, (404,), parameters=[two]),
            "delete": _operation("Stop it, and remove its record", _json("Deleted"), (404,), parameters=[two]),
        },
        f"{tunings}/{{tuning_id}}/events": {
            "get": _operation("What happened to it", events, (400, 404), parameters=[two, *listed_events])
        },
        f"{tunings}/{{tuning_id}}/cancel": {
            "post": _operation("Stop it, keep its record", tuning, (400, 404), parameters=[two])
        },
        "/v1/models": {"get": _operation("The models that can be edited with", _json("ModelList"), ())},
        "/v1/models/{model_id}": {
            "get": _operation("One model", _json("Model"), (404,), parameters=[_path("model_id")]),
            "delete": _operation(
                "Remove a model that your tuning made", _json("Deleted"), (404,), parameters=[_path("model_id")]
            ),
        },
        "/healthz": {"get": _operation("Whether the process answers", _json("Status"), (), token=False)},
        "/readyz": {
            "get": _operation(
                "Whether a worker can take a job", _json("Status"), (), token=False, more={503: _json("Status")}
            )
        },
        "/metrics": {
            "get": _operation(
                "Measures for Prometheus", {"description": "text", "content": {"text/plain": {"schema": _STR}}}, ()
            )
        },
        "/openapi.json": {
            "get": _operation(
                "This document",
                {"description": "OpenAPI", "content": {"application/json": {"schema": {"type": "object"}}}},
                (),
            )
        },
    }
    answer: dict[str, Any] = {
        "openapi": "3.1.0",
        "info": {
            "title": "tav-sdk",
            "version": __version__,
            "description": "Edits of videos by one-shot-tuned diffusion models: jobs, events, files, tunings.",
        },
        "paths": paths,
        "components": {"schemas": _schemas()},
    }
    if settings.tokens is not None:
        answer["components"]["securitySchemes"] = {"token": {"type": "http", "scheme": "bearer"}}
        answer["security"] = [{"token": []}]
        for operations in paths.values():
            for operation in operations.values():
                if operation.pop("x-no-token", False):
                    operation["security"] = []
    else:
        for operations in paths.values():
            for operation in operations.values():
                operation.pop("x-no-token", None)
    return answer


def _schemas() -> dict[str, Any]:
    video = {
        **_COMMON,
        "object": {"const": "video"},
        "expires_at": {"type": ["integer", "null"]},
        "warnings": {"type": "array", "items": _STR},
        "seconds": {"type": ["string", "null"]},
        "size": _STR,
        "remixed_from_video_id": {"type": ["string", "null"]},
        "mode": {"enum": ["edit", "generate"]},
        "num_frames": _INT,
        "fps": {"type": ["number", "null"]},
        "num_inference_steps": _INT,
        "guidance_scale": _NUM,
        "seed": {"type": ["integer", "null"]},
        "negative_prompt": _STR,
        "extra_params": {"type": "object"},
        "width": _INT,
        "height": _INT,
        "inference_time_s": {"type": ["number", "null"]},
        "stage_durations": {"type": ["object", "null"]},
        "peak_memory_mb": {"type": ["integer", "null"]},
        "media_type": {"const": "video/mp4"},
    }
    tuning = {
        **_COMMON,
        "object": {"const": "tuning"},
        "base": _STR,
        "num_train_steps": {"type": ["integer", "null"]},
        "loss": {"type": ["number", "null"]},
        "snapshots": {"type": "array", "items": {"type": "object"}},
        "result_model": {"type": ["string", "null"]},
    }
    model = {
        "id": _STR,
        "object": {"const": "model"},
        "created": _INT,
        "owned_by": _STR,
        "base": _STR,
        "prompt": _STR,
        "size": _STR,
        "num_frames": _INT,
        "fps": _NUM,
        "num_inference_steps": _INT,
        "guidance_scale": _NUM,
        "precision": _STR,
        "source": _BOOL,
        "deletable": _BOOL,
    }
    error = {
        "message": _STR,
        "type": {"enum": _ERROR_TYPES},
        "param": {"type": ["string", "null"]},
        "code": {"enum": sorted({code for codes in CODES.values() for code in codes})},
    }
    event = {"object": _STR, "id": _INT, "type": _STR, "created_at": _INT, "data": {"type": "object"}}
    lists = {
        f"{name}List": _object(
            {
                "object": {"const": "list"},
                "data": {"type": "array", "items": _ref(name)},
                "first_id": {"type": ["string", "null"]},
                "last_id": {"type": ["string", "null"]},
                "has_more": _BOOL,
            }
        )
        for name in ("Video", "Tuning", "Model")
    }
    return {
        "Video": _object(video),
        "Tuning": _object(tuning),
        "Model": _object(model),
        **lists,
        "Event": _object(event),
        "EventList": _object(
            {"object": {"const": "list"}, "data": {"type": "array", "items": _ref("Event")}, "has_more": _BOOL}
        ),
        "Deleted": _object({"id": _STR, "object": _STR, "deleted": {"const": True}}),
        "Status": {"type": "object", "properties": {"status": _STR}, "required": ["status"]},
        "Error": _object({"error": _object(error)}),
    }


def _object(properties: dict[str, Any]) -> dict[str, Any]:
    return {"type": "object", "properties": properties, "required": list(properties), "additionalProperties": False}


def _ref(name: str) -> dict[str, Any]:
    return {"$ref": f"#/components/schemas/{name}"}


def _json(name: str) -> dict[str, Any]:
    return {"description": name, "content": {"application/json": {"schema": _ref(name)}}}


def _form_or_json(operation: Operation, max_frames: int) -> dict[str, Any]:
    return {
        "application/json": {
            "schema": video_schema(operation, max_frames=max_frames, form=False),
            "example": _EXAMPLES[operation],
        },
        "multipart/form-data": {"schema": video_schema(operation, max_frames=max_frames, form=True)},
    }


def _refusal(status: int) -> dict[str, Any]:
    """An error's answer, with its codes and an example."""
    problem = ProblemError(status, CODES[status][0], "what was expected, what came, what to do")
    headers = {429: "Retry-After", 503: "Retry-After", 401: "WWW-Authenticate", 416: "Content-Range"}
    schema = {"type": "string", "pattern": "^[0-9]+$"} if headers.get(status) == "Retry-After" else _STR
    return {
        "description": f"Refused: {', '.join(CODES[status])}",
        "content": {"application/json": {"schema": _ref("Error"), "example": problem.body}},
        **({} if status not in headers else {"headers": {headers[status]: {"required": True, "schema": schema}}}),
    }


def _operation(
    summary: str,
    answer: dict[str, Any] | None,
    errors: tuple[int, ...],
    *,
    body: dict[str, Any] | None = None,
    parameters: list[dict[str, Any]] | None = None,
    token: bool = True,
    more: dict[int, Any] | None = None,
) -> dict[str, Any]:
    statuses = {*errors, 403, 431, 500, 503, *((401,) if token else ())}
    refused = {str(status): _refusal(status) for status in sorted(statuses)}
    found = {} if answer is None else {"200": answer}
    return {
        "summary": summary,
        **({} if parameters is None else {"parameters": parameters}),
        **({} if body is None else {"requestBody": {"required": True, "content": body}}),
        "responses": {**found, **refused, **{str(status): made for status, made in (more or {}).items()}},
        **({} if token else {"x-no-token": True}),
    }


def _query(name: str, schema: dict[str, Any]) -> dict[str, Any]:
    return {"name": name, "in": "query", "schema": schema}


def _path(name: str) -> dict[str, Any]:
    return {"name": name, "in": "path", "required": True, "schema": _STR}


def _header(name: str, about: str) -> dict[str, Any]:
    schema: dict[str, Any] = {"type": "string"}
    if name == "Idempotency-Key":
        schema |= {"minLength": 1, "maxLength": 128, "pattern": "^[!-~]+$"}
    else:
        schema |= {"pattern": "^[0-9]{1,18}$"}
    return {"name": name, "in": "header", "description": about, "schema": schema}
