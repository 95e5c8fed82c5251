"""The description of the operators' HTTP (OpenAPI 3.1), with schemas made from the structs."""

from __future__ import annotations

from typing import Any

import msgspec

from gateway.model import JobState
from gateway.store.listing import MAX_LIMIT
from gateway.store.records import (
    ActPage,
    DeadGroups,
    EventDetail,
    HeldKey,
    JobDetail,
    Page,
    ReplayDetail,
    ReplayRecord,
    ReroutedJob,
)
from gateway.store.steering import WAITING_STATES
from gateway.web.figures import RouteView, StatsView, VendorView
from gateway.web.parameters import DEFAULT_LIMIT, DEFAULT_RATE, MAX_TEXT_CHARS

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
        [
            *(Page, JobDetail, EventDetail, VendorView, RouteView, StatsView),
            *(DeadGroups, ReplayRecord, ReplayDetail, ReroutedJob, HeldKey, ActPage),
        ],
        ref_template=_REF,
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
    text = {"type": "string"}
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
        **_cancel_many(),
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
                "Make a new job from a finished one. The vendor sees the old idempotency key.",
                made,
                parameters=[
                    id_,
                    _query("new_key", {"type": "boolean", "default": False}, "A new one instead."),
                ],
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
        f"{API}/jobs/{{id}}/reschedule": {
            "post": _operation(
                "reschedule_job",
                "Change when a scheduled job runs.",
                _object(id=_uuid(), run_at=_moment(), before=_moment()),
                parameters=[id_],
                errors=(400, 401, 403, 404, 409, 503),
                body={
                    "at": _moment(),
                    "in": {"type": "string", "description": "Instead of at: a duration from now."},
                },
            )
        },
        **_replays(id_),
        f"{API}/events/{{id}}": {
            "get": _operation(
                "show_event",
                "An event with the newest of its jobs.",
                _schema(EventDetail),
                parameters=[id_, body],
                errors=(400, 401, 403, 404, 422, 503),
            )
        },
        f"{API}/events/{{id}}/reroute": {
            "post": _operation(
                "reroute_event",
                "Send a stored event through today's routes: 201, or 200 where none takes it.",
                _object(event_id=_uuid(), jobs={"type": "array", "items": _schema(ReroutedJob)}),
                parameters=[id_],
                errors=(400, 401, 403, 404, 503),
                status=201,
            )
        },
        f"{API}/held-keys": {
            "get": _operation(
                "list_held_keys",
                "Ordering keys whose dead job waits for a decision.",
                _object(keys={"type": "array", "items": _schema(HeldKey)}),
                errors=(400, 401, 403, 422, 503),
            )
        },
        f"{API}/held-keys/release": {
            "post": _operation(
                "release_key",
                "Let a held key go on without its dead job.",
                _object(route=text, key=text, next={"type": ["string", "null"], "format": "uuid"}),
                errors=(400, 401, 403, 404, 503),
                body={"route": text, "key": text},
            )
        },
        **_steering(),
        f"{API}/vendors": {
            "get": _operation(
                "list_vendors",
                "Vendors with their lanes in this process.",
                _object(vendors={"type": "array", "items": _schema(VendorView)}),
                errors=(400, 401, 403),
            )
        },
        f"{API}/acts": {
            "get": _operation(
                "list_acts",
                "What operators did, newest first.",
                _schema(ActPage),
                parameters=[
                    _query("who", _short_text(), "A part of it."),
                    _query("act", _short_text(), "vendor.pause, or vendor for all about vendors."),
                    _query("target", _short_text(), "A name or an id that it was about."),
                    _query("since", text, f"Done then or later. {_MOMENT}"),
                    _query("until", text, f"Done before then. {_MOMENT}"),
                    *_paging(),
                ],
                errors=(400, 401, 403, 422, 503),
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


def _cancel_many() -> dict[str, Any]:
    return {
        f"{API}/jobs/cancel": {
            "post": _operation(
                "cancel_jobs",
                "Cancel the waiting jobs that match; nothing but the count for a dry run. Not"
                " complete: at least so many match. Not done: the time was up; ask again.",
                _object(**_counted(), cancelled={"type": "integer"}, done={"type": "boolean"}),
                errors=(400, 401, 403, 422, 503),
                body={
                    "state": {"enum": sorted(WAITING_STATES)},
                    **_many(),
                    "dry_run": {"type": "boolean", "default": False},
                },
            )
        }
    }


def _replays(id_: dict[str, Any]) -> dict[str, Any]:
    text = {"type": "string"}
    wish = {
        "state": {"enum": ["dead", "completed", "cancelled"], "default": "dead"},
        **_many(),
        "rate": {"type": "string", "default": DEFAULT_RATE},
        "new_key": {
            "type": "boolean",
            "default": False,
            "description": "Show vendors new idempotency keys instead of the old ones.",
        },
        "again": {
            "type": "boolean",
            "default": False,
            "description": "Also those of which there is a replay already.",
        },
        "dry_run": {"type": "boolean", "default": False},
    }
    within = [
        _query("vendor", text, "The lane."),
        _query("route", text),
        _query("since", text, f"Made then or later. {_MOMENT}"),
        _query("until", text, f"Made before then. {_MOMENT}"),
    ]
    return {
        f"{API}/dead": {
            "get": _operation(
                "dead_letters",
                "Dead letters in groups by route, vendor, status and kind of error.",
                _schema(DeadGroups),
                parameters=within,
                errors=(400, 401, 403, 422, 503),
            )
        },
        f"{API}/replays": {
            "get": _operation(
                "list_replays",
                "The newest replays of many jobs.",
                _object(replays={"type": "array", "items": _schema(ReplayRecord)}),
                errors=(400, 401, 403, 422, 503),
            ),
            "post": _operation(
                "request_replay",
                "Replay finished jobs in the background; 200 with nothing but the count for a dry"
                " run. Not complete: at least so many match.",
                _object(id=_uuid(), state={"const": "running"}, **_counted()),
                errors=(400, 401, 403, 409, 422, 503),
                status=202,
                body=wish,
            ),
        },
        f"{API}/replays/{{id}}": {
            "get": _operation(
                "show_replay",
                "A replay, how far it is, and what became of its jobs.",
                _schema(ReplayDetail),
                parameters=[id_],
                errors=(400, 401, 403, 404, 422, 503),
            )
        },
        f"{API}/replays/{{id}}/cancel": {
            "post": _operation(
                "cancel_replay",
                "End a replay, and cancel what waits of it.",
                _object(
                    id=_uuid(), state={"const": "cancelled"}, jobs_cancelled={"type": "integer"}
                ),
                parameters=[id_],
                errors=(400, 401, 403, 404, 409, 503),
            )
        },
    }


def _steering() -> dict[str, Any]:
    name = {"name": "name", "in": "path", "required": True, "schema": {"type": "string"}}
    flag = {"type": "boolean"}
    switched = _object(name={"type": "string"}, paused=flag, changed=flag)
    paths: dict[str, Any] = {
        f"{API}/routes": {
            "get": _operation(
                "list_routes",
                "Routes, and which are paused.",
                _object(routes={"type": "array", "items": _schema(RouteView)}),
                errors=(400, 401, 403),
            )
        }
    }
    for what, acts, errors in (
        ("vendor", ("Have no node call a vendor", "Let nodes call a vendor again"), (404, 409)),
        ("route", ("Have no node run a route's jobs", "Let nodes run a route's jobs"), (404,)),
    ):
        for act, summary in zip(("pause", "resume"), acts, strict=True):
            paths[f"{API}/{what}s/{{name}}/{act}"] = {
                "post": _operation(
                    f"{act}_{what}",
                    f"{summary}; restarts change nothing about it.",
                    switched,
                    parameters=[name],
                    errors=(400, 401, 403, *errors, 503),
                )
            }
    return paths


def _counted() -> dict[str, Any]:
    return {"count": {"type": "integer"}, "complete": {"type": "boolean"}}


def _many() -> dict[str, Any]:
    """The fields by which jobs are chosen to be acted on at once, but for their state."""
    text = _short_text()
    return {
        "vendor": text,
        "route": text,
        "correlation_id": text,
        "event_id": _uuid(),
        "since": {"type": "string", "description": f"Made then or later. {_MOMENT}"},
        "until": {"type": "string", "description": f"Made before then. {_MOMENT}"},
        "error": text | {"description": "Their last error, as in a group of dead letters."},
    }


def _paging() -> list[dict[str, Any]]:
    limit = {"type": "integer", "minimum": 1, "maximum": MAX_LIMIT, "default": DEFAULT_LIMIT}
    return [
        _query("limit", limit),
        _query("cursor", {"type": "string"}, "That of the page before."),
    ]


def _listing() -> list[dict[str, Any]]:
    text = _short_text()
    return [
        _query("state", {"enum": [state.value for state in JobState]}),
        _query("vendor", text, "The lane."),
        _query("route", text),
        _query("correlation_id", text),
        _query("event_id", _uuid()),
        _query("since", {"type": "string"}, f"Made then or later. {_MOMENT}"),
        _query("until", {"type": "string"}, f"Made before then. {_MOMENT}"),
        *_paging(),
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
    body: dict[str, Any] | None = None,
) -> dict[str, Any]:
    responses: dict[str, Any] = {
        str(status): {"description": summary, "content": {media: {"schema": schema}}}
    }
    for code in errors:
        responses[str(code)] = {
            "description": _ERRORS[code],
            "content": {_JSON: {"schema": {"$ref": _REF.format(name="Error")}}},
        }
    operation: dict[str, Any] = {
        "operationId": name,
        "summary": summary,
        "parameters": parameters or [],
        "responses": responses,
    }
    if body is not None:
        schema = {"type": "object", "properties": body, "additionalProperties": False}
        operation["requestBody"] = {"content": {_JSON: {"schema": schema}}}
    return operation


def _query(name: str, schema: dict[str, Any], description: str = "") -> dict[str, Any]:
    parameter = {"name": name, "in": "query", "required": False, "schema": schema}
    return parameter | ({"description": description} if description else {})


def _object(**properties: dict[str, Any]) -> dict[str, Any]:
    return {"type": "object", "required": list(properties), "properties": properties}


def _schema(struct: type[msgspec.Struct]) -> dict[str, Any]:
    return {"$ref": _REF.format(name=struct.__name__)}


def _short_text() -> dict[str, Any]:
    return {"type": "string", "maxLength": MAX_TEXT_CHARS}


def _moment() -> dict[str, Any]:
    return {"type": "string", "format": "date-time"}


def _uuid() -> dict[str, Any]:
    return {"type": "string", "format": "uuid"}
