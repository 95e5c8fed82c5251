"""Conditions and templates: lenient or strict on what is missing, closed to all of Python."""

from __future__ import annotations

import json
from typing import Any
from urllib.parse import unquote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.errors import ExpressionInvalid, RenderFailed
from gateway.expressions import (
    EVENT_NAMES,
    MISSING,
    Expression,
    HeaderView,
    Template,
    has_dot_segment,
    parse_call,
    parse_query,
)

EVENT: dict[str, Any] = {
    "type": "invoice.paid",
    "items": [{"id": "a", "n": 1}, {"id": "b", "n": 2}],
    "get": "a field",
    "n": 7,
    "big": 10**9,
    "flag": True,
    "nothing": None,
    "data": {"object": {"amount_due": 1990, "customer": "cus_1", "keys": 3}},
}


def context(**values: Any) -> dict[str, Any]:
    return {
        "event": EVENT,
        "headers": HeaderView({"x-event": "push", "user-agent": "test"}),
        "query": {"a": "1"},
        "vendor": "stripe",
        "event_type": None,
        **values,
    }


def holds(text: str, **values: Any) -> bool:
    return Expression.compile(text).truth(context(**values))


def rendered(value: object, **values: Any) -> Any:
    return Template.compile(value).render(context(**values))


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda children: st.lists(children) | st.dictionaries(st.text(), children),
    max_leaves=12,
)
SOURCES = """
event.x
event.x.y
event.x[0]
event['x'][-1]
event.x[1:3]
event.x + event.y
event.x * event.y
event.x ** event.y
event.x % event.y
event.x / event.y
event.x // event.y
event.x < event.y
event.x in event.y
event[event.x]
-event.x
event.x ~ event.y
event.x and event.y
not event.x
[event.x, {'a': event.y}]
{event.x: 1}
event.x | int
event.x | float
event.x | length
event.x | tojson
event.x | join(event.y)
event.x | map(attribute='a')
event.x | sum
event.x | first
event.x | sort
event.x | items
event.x | select
event.x | replace('a', event.y)
event.x | format(event.y)
event.x | round(event.y)
event.x | truncate(event.y)
event.x | default(event.y)
event.x is startswith(event.y)
event.x is divisibleby 3
event.x | unique
event.x | dictsort
event.x | urlencode
event.x | split(event.y)
event.x | min
event.x | reverse
event.x | int(base=event.y)
event.x if event.y else 1
""".strip().splitlines()
sources = st.sampled_from(SOURCES)


# Conditions


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("event.data.object.amount_due > 0", True),
        ("event.data.object.amount_due > 5000", False),
        ("event_type == 'x'", False),
        ("headers['X-Event'] == 'push' and headers['x-event'] == 'push'", True),
        ("'X-EVENT' in headers and 'x-other' not in headers", True),
        ("query.a == '1' and vendor == 'stripe'", True),
        ("event.type is startswith('invoice.') and event.type is endswith('paid')", True),
        ("event.items | selectattr('n', 'gt', 1) | map(attribute='id') | list == ['b']", True),
        ("event.items | selectattr('n', 'gt', 5)", False),
        ("event.items[-1].id == 'b'", True),
        ("event.flag", True),
        ("event.nothing", False),
    ],
)
def test_a_condition_holds_by_the_data(text: str, expected: bool) -> None:
    assert holds(text) is expected


@pytest.mark.parametrize(
    "text",
    [
        "event.missing",
        "event.a.b.c.d",
        "event.a.b > 0",
        "0 < event.a.b",
        "event.a.b < 9",
        "event.a.b <= 0",
        "event.a.b >= 0",
        "event.a / 100 > 1",
        "event.a == event.b",
        "event.a in [1, 2]",
        "event.items[9].id == 'a'",
        "event[event.a]",
        "event.nothing.deeper",
        "headers['x-none'].deeper == 'a'",
    ],
)
def test_a_missing_field_is_false_at_any_depth(text: str) -> None:
    assert holds(text) is False
    assert holds(f"({text}) or event.flag") is True, "only the field is false, not the whole"
    assert holds(text, event=MISSING) is False


def test_a_condition_can_ask_whether_a_field_is_there() -> None:
    assert holds("event.a is not defined and event.n is defined")
    assert holds("event.a.b | default(3) > 2")
    assert holds("not event.a.b")
    assert holds("event.status != 'test'")


@pytest.mark.parametrize(
    "text", ["1 / 0", "event.type > 5", "event.type + 1", "event.n[0].x.y > 1"]
)
def test_what_cannot_be_computed_is_false(text: str) -> None:
    assert holds(text) is False


@given(sources, json_values, json_values)
def test_a_condition_never_raises(source: str, x: object, y: object) -> None:
    assert holds(source, event={"x": x, "y": y}) in (True, False)


# What data may not reach


def test_fields_win_over_the_names_of_python() -> None:
    assert rendered("{{ event.items | length }}") == 2
    assert rendered("{{ event.data.object.keys }}") == 3
    assert rendered("{{ event.get }}") == "a field"


@pytest.mark.parametrize(
    "text",
    [
        "event.__class__",
        "event.values",
        "event['__class__']",
        "event.type.upper",
        "headers._headers",
        "event.items.append",
        "event.items | map(attribute='__class__') | first",
        "(event.items | first).__init__",
        "''.__class__.__mro__",
    ],
)
def test_no_attribute_of_python_is_reachable(text: str) -> None:
    assert holds(f"{text} is defined") is False
    with pytest.raises(RenderFailed):
        rendered(f"{{{{ {text} }}}}")


@pytest.mark.parametrize(
    "text",
    [
        "'x' * event.big",
        "event.big * 'x'",
        "[0] * event.big",
        "event.big ** event.big",
        "'%999999d' | format(1)",
        "'%*d' | format(event.big, 1)",
        "'%999999d' % 1",
    ],
)
def test_a_number_of_the_vendor_cannot_fill_the_memory(text: str) -> None:
    with pytest.raises(RenderFailed, match=r"repetition|power|width|'%'"):
        rendered(f"{{{{ {text} }}}}")


# What is refused at start-up


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("event.x >", "unexpected 'end'"),
        ("", "unexpected 'end'"),
        ("event.x event.y", "unexpected 'event'"),
        ("evnt.x > 1", "unknown name 'evnt' at character 1; did you mean 'event'"),
        ("event.a > amount", "unknown name 'amount' at character 11.*event.amount"),
        ("attempt > 1", "unknown name 'attempt'"),
        ("range(9)", "nothing can be called"),
        ("event.x.upper()", "use a filter"),
        ("event.x | uper", "no filter 'uper'; did you mean 'upper'"),
        ("event.x | attr('y')", "no filter 'attr'"),
        ("event.x is evn", "no test 'evn'; did you mean 'even'"),
        ("1 if event.x", "needs an 'else'"),
        ("{{ event.x }}", "without {{ }}"),
        ("(" * 500 + "1" + ")" * 500, "nested"),
        ("1" * 5000, "digits"),
    ],
)
def test_a_bad_condition_is_told_with_its_remedy(text: str, told: str) -> None:
    with pytest.raises(ExpressionInvalid, match=told):
        Expression.compile(text)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("a {{ event.x", "no matching"),
        ("{{ }}", "unexpected 'end'"),
        ("{% if event.x %}a{% endif %}", "statements"),
        ("{{ evnt.x }}", "did you mean 'event'"),
        ("{# never closed", "comment"),
    ],
)
def test_a_bad_template_is_told_with_its_remedy(text: str, told: str) -> None:
    for value in (text, {"a": [text]}):
        with pytest.raises(ExpressionInvalid, match=told):
            Template.compile(value)


def test_names_of_a_running_job_are_refused_where_there_is_no_job() -> None:
    assert Template.compile("{{ job_id }}/{{ attempt }}").names == {"job_id", "attempt"}
    with pytest.raises(ExpressionInvalid, match="unknown name 'job_id'"):
        Template.compile("{{ job_id }}", names=EVENT_NAMES)


near_expressions = st.text(alphabet="{}%#|()[]'\"~.-+*<> event1x\n", max_size=30)


@given(st.text() | near_expressions)
def test_compiling_any_text_raises_nothing_else(text: str) -> None:
    for compile_ in (Expression.compile, Template.compile, parse_call):
        try:
            compile_(text)
        except ExpressionInvalid:
            continue


# Values


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("{{ event.data.object.amount_due / 100 }}", 19.9),
        ("{{ event.n }}", 7),
        ("{{ 5 }}", 5),
        ("{{ true }}", True),
        ("{{ event.nothing }}", None),
        ("{{ event.items }}", EVENT["items"]),
        ("{{ event.items | map(attribute='id') }}", ["a", "b"]),
        ("{{- event.flag -}}", True),
        ("n={{ event.n }}", "n=7"),
        ("{{ event.flag }}, {{ event.items[0] }}", 'true, {"id":"a","n":1}'),
        ("{{ '%.2f' | format(event.n) }}", "7.00"),
        ("{{ event.x | default('none') }}!", "none!"),
        ("{{ event.nothing | default('', true) }}!", "!"),
        ("{% raw %}{{ kept }}{% endraw %}", "{{ kept }}"),
        ("two\nlines\n", "two\nlines\n"),
        ({"a": ["{{ event.n }}", 1, {"b": "x{{ event.n }}"}]}, {"a": [7, 1, {"b": "x7"}]}),
        (3.5, 3.5),
    ],
)
def test_one_expression_keeps_its_type_and_text_around_it_makes_text(
    value: object, expected: object
) -> None:
    result = rendered(value)
    assert result == expected
    assert type(result) is type(expected)


@given(json_values.filter(lambda value: "nan" not in repr(value) and "inf" not in repr(value)))
def test_a_lone_field_is_rendered_as_it_was_sent(value: object) -> None:
    assert rendered("{{ event.x }}", event={"x": value}) == value


@pytest.mark.parametrize(
    ("value", "told"),
    [
        ("{{ event.a.b }}", r"\{\{ event.a.b \}\}: the field 'a' is missing"),
        ("x {{ event.data.b }}", r"\{\{ event.data.b \}\}: the field 'b' is missing"),
        ({"k": ["{{ event.a }}"]}, "'a' is missing"),
        ("{{ [event.a] }}", "'a' is missing"),
        ("{{ event.a | upper }}", "'a' is missing"),
        ("{{ event.a ~ 'x' }}", "'a' is missing"),
        ("{{ event.a + 1 }}", "'a' is missing"),
        ("{{ event.a | join }}", "'a' is missing"),
        ("{{ 'big' if event.a > 1 else 'small' }}", "'a' is missing"),
        ("a {{ event.nothing }}", "null.*default"),
        ("{{ event.type + 1 }}", "TypeError"),
        ("{{ 1 / 0 }}", "ZeroDivisionError"),
        ("{{ 1e308 * 10 }}", "infinite"),
        ("{{ {1: 2} }}", "key"),
    ],
)
def test_a_template_tells_which_expression_failed_and_why(value: object, told: str) -> None:
    with pytest.raises(RenderFailed, match=told):
        rendered(value)


def test_a_body_that_could_not_be_decoded_is_told() -> None:
    with pytest.raises(RenderFailed, match="neither JSON nor a form"):
        rendered("{{ event.x }}", event=MISSING)


@given(sources, json_values, json_values)
def test_rendering_raises_nothing_but_render_failed(source: str, x: object, y: object) -> None:
    values = context(event={"x": x, "y": y})
    for template in (
        Template.compile(f"{{{{ {source} }}}}"),
        Template.compile(f"a{{{{ {source} }}}}"),
    ):
        for render in (template.render, template.render_url, template.render_header):
            try:
                render(values)
            except RenderFailed:
                continue


def test_constants_are_known_as_such_and_handed_out_as_they_are() -> None:
    body = {"a": [1, "two"], "b": True}
    template = Template.compile(body)
    assert template.constant
    assert template.names == frozenset()
    assert template.render({}) is body
    assert not Template.compile({"a": ["{{ event.n }}"]}).constant


# URLs


def url(path: str, **values: Any) -> str:
    return parse_call(f"GET crm:{path}")[2].render_url(context(**values))


def test_each_value_in_a_url_is_percent_encoded() -> None:
    event = {"a": "x/y?z#é &=", "n": 5}
    assert url("/d/{{ event.a }}?q={{ event.a }}&n={{ event.n }}", event=event) == (
        "/d/x%2Fy%3Fz%23%C3%A9%20%26%3D?q=x%2Fy%3Fz%23%C3%A9%20%26%3D&n=5"
    )


@given(st.text(), st.text())
def test_a_value_cannot_escape_its_segment_or_its_query_value(x: str, y: str) -> None:
    try:
        result = url("/d/{{ event.x }}/e?q={{ event.y }}&r=1", event={"x": x, "y": y})
    except RenderFailed:
        return
    path, _, query = result.partition("?")
    assert result.isascii()
    assert [unquote(piece) for piece in path.split("/")] == ["", "d", x, "e"]
    assert [unquote(piece) for piece in query.split("&")] == [f"q={y}", "r=1"]
    assert x not in ("", ".", "..")


@pytest.mark.parametrize("value", ["", ".", "..", "../admin", "a/../b", "..\\x", "x/.", "a/./b"])
def test_a_value_that_would_make_another_path_is_refused(value: str) -> None:
    with pytest.raises(RenderFailed):
        url("/d/{{ event.x }}", event={"x": value})


@pytest.mark.parametrize(
    "path", ["/d/{{ event.x }}{{ event.x }}", "/.{{ event.x }}", "/%2e{{ event.x }}"]
)
def test_values_cannot_join_to_a_dot_segment(path: str) -> None:
    with pytest.raises(RenderFailed):
        url(path, event={"x": "."})


def test_a_harmless_dot_and_an_empty_query_value_are_fine() -> None:
    event = {"x": "v1.2..3", "y": ""}
    assert url("/d/{{ event.x }}?q={{ event.y }}", event=event) == "/d/v1.2..3?q="
    assert url("/d?q={{ event.x }}", event={"x": ".."}) == "/d?q=.."


def test_an_endless_url_is_refused() -> None:
    with pytest.raises(RenderFailed, match="characters"):
        url("/{{ event.x }}", event={"x": "x" * 9000})


def test_a_missing_field_in_a_url_fails() -> None:
    with pytest.raises(RenderFailed, match="'x' is missing"):
        url("/{{ event.x }}")


@given(st.text(alphabet="./\\%2eE5cfF?a", max_size=12))
def test_dot_segments_are_seen_through_encoding(path: str) -> None:
    pieces = unquote(path.partition("?")[0]).replace("\\", "/").split("/")
    assert has_dot_segment(path) is ("." in pieces or ".." in pieces)


# Headers


@given(st.text())
def test_a_header_cannot_be_ended_or_split_by_a_value(value: str) -> None:
    template = Template.compile("v={{ event.x }}")
    try:
        text = template.render_header(context(event={"x": value}))
    except RenderFailed:
        return
    assert text is not None
    assert not set(text) & {"\r", "\n", "\0"}
    text.encode()


@pytest.mark.parametrize(
    "value", ["a\r\nX-Evil: 1", "a\n", "\0", "\x1b[0m", "\x7f", "\x85", "\ud800"]
)
def test_control_characters_in_a_header_are_refused(value: str) -> None:
    with pytest.raises(RenderFailed, match="control character") as failed:
        Template.compile("{{ event.x }}").render_header(context(event={"x": value}))
    assert "Evil" not in str(failed.value)


def test_a_header_whose_one_value_is_null_is_left_out() -> None:
    assert Template.compile("{{ event_type }}").render_header(context()) is None
    with pytest.raises(RenderFailed, match="null"):
        Template.compile("type {{ event_type }}").render_header(context())


# Calls


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("post crm:/x", "'post' is no method"),
        ("FETCH crm:/x", "GET, POST, PUT, PATCH, DELETE"),
        ("POST", "vendor is missing"),
        ("POST /x", "vendor is missing"),
        ("POST crm:x", "must begin with '/'"),
        ("POST https://api.example/x", "base_url"),
        ("POST crm:/a/../b", r"'\.\.' segments"),
        ("POST crm:/a b", "percent-encoded: %20"),
        ("POST crm:/größe", "percent-encoded: %C3%B6"),
        ("POST crm:/a#b", "%23"),
        ("POST crm:/100%", "%25"),
        ("POST crm:/{{ evnt.x }}", "did you mean 'event'"),
    ],
)
def test_a_bad_call_is_told_with_its_remedy(text: str, told: str) -> None:
    with pytest.raises(ExpressionInvalid, match=told):
        parse_call(text)


def test_a_call_is_split_into_method_vendor_and_path() -> None:
    method, vendor, path = parse_call("PATCH  my-crm_2:/a:b/{{ event.n }}?x=%20")
    assert (method, vendor, path.render_url(context())) == ("PATCH", "my-crm_2", "/a:b/7?x=%20")


# Context


def test_a_query_gives_the_first_value_of_each_name() -> None:
    assert parse_query("a=1&a=2&b=&c=%C3%A9+x&d") == {"a": "1", "b": "", "c": "é x", "d": ""}


@given(st.text())
def test_any_query_is_read(raw: str) -> None:
    json.dumps(parse_query(raw))
