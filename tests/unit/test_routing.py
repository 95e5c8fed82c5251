"""Which events become which jobs, and what each job calls."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone
from typing import Any
from uuid import UUID

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.backoff import RetryPolicy
from gateway.config.model import Api, Route
from gateway.errors import ExpressionInvalid, RenderFailed
from gateway.model import CallSpec, Event, NewJob
from gateway.routing import Router
from gateway.webhooks.extract import UNDECODED

EVENT_ID = UUID("0198c0de-0000-7000-8000-000000000001")
JOB_ID = UUID("0198c0de-0000-7000-8000-000000000002")
INVOICE = {
    "type": "invoice.paid",
    "data": {"object": {"amount_due": 1990, "customer": "cus_1"}},
}
APIS = {"crm": Api(vendor="crm", base_url="https://crm.example", retry=RetryPolicy(attempts=3))}


def event(decoded: object = INVOICE, **values: Any) -> Event:
    return Event(
        **{
            "id": EVENT_ID,
            "vendor": "stripe",
            "event_type": "invoice.paid",
            "correlation_id": "c-1",
            "headers": {"content-type": "application/json"},
            "body": b"" if decoded is UNDECODED else msgspec.json.encode(decoded),
            "received_at": datetime(2026, 7, 1, 12, tzinfo=UTC),
            **values,
        }
    )


def route(name: str = "r", **values: Any) -> Route:
    if "handler" not in values:
        values.setdefault("call", "POST crm:/in")
    return Route(name=name, source=values.pop("source", "stripe"), **values)


def jobs(*routes: Route, decoded: object = INVOICE, **values: Any) -> list[NewJob]:
    return Router(routes, APIS).jobs_for(event(decoded, **values), decoded)


def matched(*routes: Route, decoded: object = INVOICE, **values: Any) -> list[str]:
    found = Router(routes, APIS).match(event(decoded, **values), decoded)
    assert [one.route.name for one in found] == [
        job.route for job in jobs(*routes, decoded=decoded, **values)
    ], "match and jobs_for must agree"
    return [one.route.name for one in found]


def call(one: Route, decoded: object = INVOICE, **values: Any) -> CallSpec:
    compiled = Router([one], APIS).route(one.name)
    assert compiled is not None
    return compiled.render_call(event(decoded, **values), decoded, job_id=JOB_ID, attempt=2)


# Matching


@pytest.mark.parametrize(
    ("patterns", "event_type", "matches"),
    [
        ((), "invoice.paid", True),
        ((), None, True),
        (("invoice.paid",), "invoice.paid", True),
        (("invoice.paid",), "Invoice.paid", False),
        (("invoice.paid",), "invoice.paid.late", False),
        (("charge.*", "invoice.payment_*"), "invoice.payment_failed", True),
        (("invoice.?",), "invoice.a", True),
        (("*",), None, True),
        (("invoice.*",), None, False),
        (("n*",), None, False),
    ],
)
def test_the_patterns_choose_by_the_type(
    patterns: tuple[str, ...], event_type: str | None, matches: bool
) -> None:
    assert bool(matched(route(events=patterns), event_type=event_type)) is matches


def test_only_the_sender_s_own_routes_match_in_their_order() -> None:
    routes = [route("b"), route("other", source="github"), route("a"), route("c", events=("x",))]
    assert matched(*routes) == ["b", "a"]
    assert matched(*routes, vendor="unknown") == []


def test_where_looks_into_the_event() -> None:
    assert matched(
        route("yes", where="event.data.object.amount_due > 0"),
        route("no", where="event.data.object.amount_due > 5000"),
        route("missing", where="event.data.object.nothing > 0"),
        route("type", where="event_type == 'invoice.paid' and vendor == 'stripe'"),
        route("header", where="headers['Content-Type'] == 'application/json'"),
        route("query", where="query.a == '1'"),
        route("id", where=f"event_id == '{EVENT_ID}' and correlation_id == 'c-1'"),
        query="a=1",
    ) == ["yes", "type", "header", "query", "id"]


def test_a_body_that_could_not_be_decoded_matches_only_where_nobody_looks_into_it() -> None:
    assert matched(
        route("all"),
        route("differs", where="event.status != 'test'"),
        route("absent", where="not event.test"),
        route("header", where="headers['content-type'] is defined"),
        decoded=UNDECODED,
    ) == ["all", "header"]


def test_a_body_of_null_is_decoded_and_has_no_fields() -> None:
    assert matched(
        route("a", where="event.x"), route("b", where="event is none"), decoded=None
    ) == ["b"]


def test_more_event_types_than_are_remembered_still_match_rightly() -> None:
    router = Router([route("x", events=("x*",)), route("all")], APIS)
    for number in [*range(3000), *range(10)]:
        names = [one.route.name for one in router.match(event(event_type=f"x{number}"), INVOICE)]
        assert names == ["x", "all"]
        names = [one.route.name for one in router.match(event(event_type=f"y{number}"), INVOICE)]
        assert names == ["all"]
    assert len(router._wanting) <= 1024


def test_the_body_is_read_only_where_a_route_looks_into_it() -> None:
    router = Router(
        [
            route("a", source="plain", call="POST crm:/{{ event.id }}"),
            route("b", source="looks", where="event.id > 0"),
            route("c", source="orders", ordering_key="{{ event.id }}"),
            route("d", source="headers", where="headers.x == 'y'"),
        ],
        APIS,
    )
    reads = {v: router.reads_body(v) for v in ("plain", "looks", "orders", "headers", "none")}
    assert reads == {
        "plain": False,
        "looks": True,
        "orders": True,
        "headers": False,
        "none": False,
    }


# Jobs


def test_a_job_carries_what_its_route_and_event_say() -> None:
    (job,) = jobs(route(priority=3, delay_seconds=2.5, ordering_key="k"))
    assert (job.event_id, job.route, job.vendor, job.kind) == (EVENT_ID, "r", "crm", "call")
    assert (job.priority, job.delay_seconds, job.max_attempts) == (3, 2.5, 3)
    assert (job.correlation_id, job.ordering_key) == ("c-1", "k")
    assert (job.id.version, type(job.id)) == (7, UUID)


def test_attempts_are_the_route_s_or_its_lane_s_or_the_default() -> None:
    found = jobs(
        route("lane"),
        route("own", retry=RetryPolicy(attempts=11)),
        route("local", handler="a.b:c", lane="local"),
        route("borrowed", handler="a.b:c", lane="crm"),
    )
    assert [(job.route, job.vendor, job.kind, job.max_attempts) for job in found] == [
        ("lane", "crm", "call", 3),
        ("own", "crm", "call", 11),
        ("local", "local", "handler", RetryPolicy().attempts),
        ("borrowed", "crm", "handler", 3),
    ]


@pytest.mark.parametrize(
    ("template", "decoded", "key"),
    [
        ("{{ event.customer }}", {"customer": "cus_1"}, "cus_1"),
        ("{{ event.customer }}", {"customer": 7}, "7"),
        ("{{ event.customer }}", {"customer": "a\0b"}, "a\ufffdb"),
        ("{{ event.customer }}", {"customer": None}, None),
        ("{{ event.customer }}", {}, ""),
        ("{{ event.customer }}", UNDECODED, ""),
        ("{{ event.customer + 1 }}", {"customer": "x"}, ""),
        ("{{ event.customer | default(none) }}", {}, None),
        ("{{ vendor }}:{{ event.customer }}", {"customer": "x"}, "stripe:x"),
    ],
)
def test_an_event_is_never_lost_for_its_ordering_key(
    template: str, decoded: object, key: str | None
) -> None:
    (job,) = jobs(route(ordering_key=template), decoded=decoded)
    assert job.ordering_key == key


@given(st.text())
def test_any_ordering_key_fits_the_database_and_long_ones_stay_apart(text: str) -> None:
    found = [
        jobs(route(ordering_key="{{ event.k }}"), decoded={"k": k}, body=b"")[0].ordering_key
        for k in (text, "x" * 300 + text, "x" * 300 + text + "y")
    ]
    for key in found:
        assert key is not None
        assert len(key) <= 255
        assert "\0" not in key
        key.encode()
    assert found[1] != found[2]


# Calls


def test_a_call_is_rendered_from_event_and_job() -> None:
    spec = call(
        route(
            call="POST crm:/deals/{{ event.data.object.customer }}?e={{ event_id }}",
            body={"stage": "paid", "amount": "{{ event.data.object.amount_due / 100 }}"},
            headers={"X-Event-Type": "{{ event_type }}", "X-Job": "{{ job_id }}/{{ attempt }}"},
        )
    )
    assert spec == CallSpec(
        method="POST",
        path=f"/deals/cus_1?e={EVENT_ID}",
        headers={"X-Event-Type": "invoice.paid", "X-Job": f"{JOB_ID}/2"},
        body=b'{"stage":"paid","amount":19.9}',
        content_type="application/json",
    )


def test_without_a_body_the_raw_bytes_pass_through_undecoded() -> None:
    raw = b'{ "a" : 1,\n"a":2}\xff'
    spec = call(
        route(headers={"X-Fixed": "1"}),
        UNDECODED,
        body=raw,
        headers={"content-type": "text/x; charset=latin-1", "content-encoding": "gzip"},
    )
    assert spec.body is raw
    assert spec.content_type == "text/x; charset=latin-1"
    assert spec.headers == {"X-Fixed": "1", "Content-Encoding": "gzip"}
    assert call(route(), headers={}).content_type is None


def test_a_raw_body_that_was_not_loaded_is_no_empty_body() -> None:
    with pytest.raises(RenderFailed, match="not loaded"):
        call(route(), body=None)


@pytest.mark.parametrize("method", ["GET", "DELETE"])
def test_a_method_without_content_sends_none_unless_told(method: str) -> None:
    assert call(route(call=f"{method} crm:/x")).body is None
    assert call(route(call=f"{method} crm:/x", body={"a": 1})).body == b'{"a":1}'


@pytest.mark.parametrize(
    ("body", "sent", "content_type"),
    [
        ("hello {{ event.type }}", b"hello invoice.paid", "text/plain; charset=utf-8"),
        ("{{ event.type }}", b"invoice.paid", "text/plain; charset=utf-8"),
        ("", b"", "text/plain; charset=utf-8"),
        ("{{ event.data.object }}", b'{"amount_due":1990,"customer":"cus_1"}', "application/json"),
        (["{{ event.type }}", 1], b'["invoice.paid",1]', "application/json"),
        ({"h": "{{ headers }}"}, b'{"h":{"content-type":"application/json"}}', "application/json"),
        ({"at": "{{ received_at }}"}, b'{"at":"2026-07-01T12:00:00.000Z"}', "application/json"),
        ({"fixed": [1, True]}, b'{"fixed":[1,true]}', "application/json"),
        (5, b"5", "application/json"),
    ],
)
def test_texts_are_sent_as_text_and_the_rest_as_json(
    body: object, sent: bytes, content_type: str
) -> None:
    spec = call(route(body=body))
    assert (spec.body, spec.content_type) == (sent, content_type)


def test_the_operator_s_content_type_wins() -> None:
    spec = call(route(body="<a/>", headers={"content-TYPE": "application/xml"}))
    assert (spec.content_type, spec.headers) == ("application/xml", {})


def test_times_are_given_in_utc() -> None:
    there = datetime(2026, 7, 1, 14, tzinfo=timezone(timedelta(hours=2)))
    assert (
        call(route(body="{{ received_at }}"), received_at=there).body == b"2026-07-01T12:00:00.000Z"
    )


def test_a_header_without_a_value_is_left_out() -> None:
    spec = call(route(headers={"X-Event-Type": "{{ event_type }}"}), event_type=None)
    assert spec.headers == {}


@pytest.mark.parametrize(
    ("body_format", "body", "sent", "content_type"),
    [
        ("json", "a", b'"a"', "application/json"),
        ("json", "{{ event.data.object.amount_due }}", b"1990", "application/json"),
        (
            "form",
            {"To": "{{ event.data.object.customer }}", "n": "{{ event.data.object.amount_due }}"},
            b"To=cus_1&n=1990",
            "application/x-www-form-urlencoded",
        ),
        (
            "form",
            "{{ event.data.object }}",
            b"amount_due=1990&customer=cus_1",
            "application/x-www-form-urlencoded",
        ),
        ("raw", "x {{ event.type }}", b"x invoice.paid", "text/plain; charset=utf-8"),
    ],
)
def test_a_body_is_written_in_the_format_that_the_route_names(
    body_format: Any, body: object, sent: bytes, content_type: str
) -> None:
    spec = call(route(body=body, body_format=body_format))
    assert (spec.body, spec.content_type) == (sent, content_type)


def test_a_multipart_body_carries_what_the_templates_give() -> None:
    file = {"content": "{{ event.type }}", "filename": "{{ event.data.object.customer }}.txt"}
    spec = call(route(body={"file": file}, body_format="multipart"))
    assert spec.body is not None
    assert b'filename="cus_1.txt"\r\n' in spec.body
    assert b"\r\n\r\ninvoice.paid\r\n--" in spec.body
    assert str(spec.content_type).startswith("multipart/form-data; boundary=")


def test_a_form_of_what_is_no_table_is_dead_at_once() -> None:
    with pytest.raises(RenderFailed, match="made of a table"):
        call(route(body="{{ event.type }}", body_format="form"))


def test_only_routes_that_read_the_body_need_it() -> None:
    router = Router(
        [
            route("raw"),
            route("raw-where", where="event.x > 1"),
            route("header", headers={"X": "{{ event_type }}"}),
            route("path", call="POST crm:/{{ event.id }}"),
            route("body", body={"a": ["{{ event.id }}"]}),
            route("handler", handler="a.b:c"),
        ],
        APIS,
    )
    needs = {name: router.route(name).needs_event for name in router._by_name}  # type: ignore[union-attr]
    assert [name for name, need in needs.items() if need] == ["path", "body"]


def test_a_field_that_is_missing_fails_the_call_by_name() -> None:
    with pytest.raises(RenderFailed, match="'nothing' is missing"):
        call(route(body={"a": "{{ event.nothing }}"}))


def test_a_handler_s_route_calls_nobody_by_itself() -> None:
    with pytest.raises(RenderFailed, match="handler"):
        call(route(handler="a.b:c"))


def test_a_route_that_is_gone_is_none() -> None:
    assert Router([], {}).route("gone") is None


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda children: st.lists(children) | st.dictionaries(st.text(), children),
    max_leaves=6,
)


@given(st.dictionaries(st.sampled_from(["a", "b", "c"]), json_values))
def test_no_event_makes_a_call_fail_otherwise_than_by_render_failed(decoded: Any) -> None:
    one = route(
        call="POST crm:/d/{{ event.a }}?b={{ event.b }}",
        headers={"X-C": "{{ event.c }}"},
        body={"a": "{{ event.a }}", "bc": "{{ event.b }} {{ event.c }}"},
    )
    try:
        spec = call(one, decoded, body=b"")
    except RenderFailed:
        return
    assert spec.path.startswith("/d/")
    assert spec.path.count("/") == 2
    assert spec.path.count("?") == 1
    assert not set("".join(spec.headers.values())) & {"\r", "\n", "\0"}
    assert spec.body is not None
    assert msgspec.json.decode(spec.body)["a"] == decoded["a"]


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ({"where": "evnt.x"}, "did you mean 'event'"),
        ({"ordering_key": "{{ job_id }}"}, "unknown name 'job_id'"),
        ({"call": "POST crm:/{{ x"}, "no matching"),
        ({"body": {"a": ["{{ x }}"]}}, "unknown name 'x'"),
        ({"headers": {"X": "{{ x }}"}}, "unknown name 'x'"),
        ({"headers": {"X": "a\nb"}}, "control characters"),
    ],
)
def test_a_fault_stops_the_start_and_names_its_route(values: dict[str, Any], told: str) -> None:
    with pytest.raises(ExpressionInvalid, match=f"route 'bad': .*{told}"):
        Router([route("bad", **values)], APIS)
