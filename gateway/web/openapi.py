"""The description of the operators' HTTP (OpenAPI 3.1), with schemas made from the structs."""

from __future__ import annotations

from typing import Any

import msgspec

from gateway.model import JobState
from gateway.store.operators import MAX_LIMIT
from gateway.store.records import EventDetail, JobDetail, Page
from gateway.web.figures import StatsView, VendorView
from gateway.web.parameters import DEFAULT_LIMIT

API = "/api/v1"

_REF = "#/components/schemas/{name}"
_JSON = "application/json"

_MOMENT = "ISO 8601 (UTC where no zone is named), or a duration such as 2h: so long ago."
_ERRORS = {
    400: "A parameter cannot be used; the message names it.",
    401: "The token of admin.token is set and was not shown.",
    403: "Host is no loopback name (without admin.token), or a POST comes from another site.",
    404: "There is no such record.",
    409: "The act is not allowed in the present state; the message says what to do.",
    422: "The answer would take too long; ask for less.",
    503: "The database does not answer; try again after Retry-After.",
}


def document(version: str) -> dict[str, Any]:
    """Return the OpenAPI document."""
    _, components = msgspec.json.schema_components(
        [Page, JobDetail, EventDetail, VendorView, StatsView], ref_template=_REF
    )
    error = {
        "type": "object",
        "required": ["error"],
        "properties": {
            "error": {
                "type": "object",
                "required": ["code", "message"],
                "properties": {"code": {"type": "string"}, "message": {"type": "string"}},
            }
        },
    }
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Integration gateway, operators' HTTP",
            "version": version,
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "security": [{"token": []}],
        "paths": _paths(),
        "components": {
            "schemas": {**components, "Error": error},
            "securitySchemes": {
                "token": {
                    "type": "http",
                    "scheme": "bearer",
                    "description": "The value of admin.token; not asked for where none is set.",
                },
                "password": {
                    "type": "http",
                    "scheme": "basic",
                    "description": "For browsers: any user name, the token as the password.",
                },
            },
        },
    }


def _paths() -> dict[str, Any]:
    id_ = {"name": "id", "in": "path", "required": True, "schema": _uuid()}
    body = _query("body", {"type": "boolean", "default": False}, "Answer the event's body, too.")
    made = _object(id=_uuid(), replay_of=_uuid(), state={"const": "available"})
    cancelled = _object(
        id=_uuid(),
        state={"const": "cancelled"},
        before={"enum": ["scheduled", "available", "blocked"]},
    )
    return {
        "/healthz": {
            "get": _operation("healthz", "The process runs.", _object(status={"const": "ok"}))
            | {"security": []}
        },
        "/readyz": {
            "get": _operation(
                "readyz",
                "Webhooks can be taken in: database reachable, migrated, not draining.",
                _object(status={"const": "ready"}),
                errors=(503,),
            )
            | {"security": []}
        },
        "/metrics": {
            "get": _operation(
                "metrics",
                "Metrics for Prometheus.",
                {"type": "string"},
                media="text/plain",
                errors=(403,),
            )
            | {"security": []}
        },
        "/": {
            "get": _operation(
                "dashboard",
                "The figures on one page.",
                {"type": "string"},
                media="text/html",
                errors=(400, 401, 403),
            )
            | {"security": [{"token": []}, {"password": []}]}
        },
        f"{API}/jobs": {
            "get": _operation(
                "list_jobs",
                "Jobs, newest first. A page that is not full may still have a cursor: the search"
                " was out of time and goes on from there.",
                _schema(Page),
                parameters=_listing(),
                errors=(400, 401, 403, 422, 503),
            )
        },
        f"{API}/jobs/{{id}}": {
            "get": _operation(
                "show_job",
                "A job with its event, its latest attempts and the jobs made from it.",
                _schema(JobDetail),
                parameters=[id_, body],
                errors=(400, 401, 403, 404, 422, 503),
            )
        },
        f"{API}/jobs/{{id}}/replay": {
            "post": _operation(
                "replay_job",
                "Make a new job from a finished one.",
                made,
                parameters=[id_],
                errors=(400, 401, 403, 404, 409, 503),
                status=201,
            )
        },
        f"{API}/jobs/{{id}}/cancel": {
            "post": _operation(
                "cancel_job",
                "Cancel a job that waits.",
                cancelled,
                parameters=[id_],
                errors=(400, 401, 403, 404, 409, 503),
            )
        },
        f"{API}/events/{{id}}": {
            "get": _operation(
                "show_event",
                "An event with the newest of its jobs.",
                _schema(EventDetail),
                parameters=[id_, body],
                errors=(400, 401, 403, 404, 422, 503),
            )
        },
        f"{API}/vendors": {
            "get": _operation(
                "list_vendors",
                "Vendors with their lanes in this process.",
                _object(vendors={"type": "array", "items": _schema(VendorView)}),
                errors=(400, 401, 403),
            )
        },
        f"{API}/stats": {
            "get": _operation(
                "stats",
                "The figures of the whole gateway.",
                _schema(StatsView),
                errors=(400, 401, 403, 422, 503),
            )
        },
        f"{API}/openapi.json": {
            "get": _operation("openapi", "This document.", {"type": "object"}, errors=(401, 403))
        },
    }


def _listing() -> list[dict[str, Any]]:
    text = {"type": "string", "maxLength": 255}
    limit = {"type": "integer", "minimum": 1, "maximum": MAX_LIMIT, "default": DEFAULT_LIMIT}
    return [
        _query("state", {"enum": [state.value for state in JobState]}),
        _query("vendor", text, "The lane."),
        _query("route", text),
        _query("correlation_id", text),
        _query("event_id", _uuid()),
        _query("since", {"type": "string"}, f"Made then or later. {_MOMENT}"),
        _query("until", {"type": "string"}, f"Made before then. {_MOMENT}"),
        _query("limit", limit),
        _query("cursor", {"type": "string"}, "That of the page before."),
    ]


def _operation(
    name: str,
    summary: str,
    schema: dict[str, Any],
    *,
    parameters: list[dict[str, Any]] | None = None,
    errors: tuple[int, ...] = (),
    status: int = 200,
    media: str = _JSON,
) -> dict[str, Any]:
    responses: dict[str, Any] = {
        str(status): {"description": summary, "content": {media: {"schema": schema}}}
    }
    for code in errors:
        responses[str(code)] = {
            "description": _ERRORS[code],
            "content": {_JSON: {"schema": {"$ref": _REF.format(name="Error")}}},
        }
    return {
        "operationId": name,
        "summary": summary,
        "parameters": parameters or [],
        "responses": responses,
    }


def _query(name: str, schema: dict[str, Any], description: str = "") -> dict[str, Any]:
    parameter = {"name": name, "in": "query", "required": False, "schema": schema}
    return parameter | ({"description": description} if description else {})


def _object(**properties: dict[str, Any]) -> dict[str, Any]:
    return {"type": "object", "required": list(properties), "properties": properties}


def _schema(struct: type[msgspec.Struct]) -> dict[str, Any]:
    return {"$ref": _REF.format(name=struct.__name__)}


def _uuid() -> dict[str, Any]:
    return {"type": "string", "format": "uuid"}
