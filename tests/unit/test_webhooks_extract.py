"""What an event is, and which: found wherever it stands, storable, never a reason to fail."""

from __future__ import annotations

import gzip
import hashlib
import json
import tracemalloc
import zlib

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from multidict import CIMultiDict, CIMultiDictProxy

from gateway.webhooks.decompress import inflate
from gateway.webhooks.extract import (
    MAX_FORM_FIELDS,
    UNDECODED,
    compile_decoder,
    compile_dedupe,
    compile_event_type,
    compile_source,
    decode_body,
)
from gateway.webhooks.presets import PRESETS

JSON = "application/json"
FORM = "application/x-www-form-urlencoded"
any_text = st.text(st.characters() | st.sampled_from("\0\ud800\udcff"))
any_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | any_text,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(any_text, inner, max_size=4),
    max_leaves=12,
)


steps = st.sampled_from(["a", "b", "0", "1", "é"])
paths = st.lists(steps, min_size=1, max_size=4).map(lambda path: "body:" + ".".join(path))
sources = st.lists(paths | st.just("header:X-Type"), min_size=1, max_size=3).map(" | ".join)
nested = st.recursive(
    st.none() | st.booleans() | st.integers() | any_text,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(steps, inner, max_size=4),
    max_leaves=20,
)


def found(source: str, decoded: object, headers: dict[str, str] | None = None) -> str | None:
    return compile_source(source)(headers or {}, decoded, b"")


def storable(text: str | None) -> bool:
    """Tell whether PostgreSQL takes *text*."""
    return text is None or ("\0" not in text and not any("\ud800" <= c <= "\udfff" for c in text))


def sha256(body: bytes) -> str:
    return hashlib.sha256(body).hexdigest()


def test_a_path_walks_objects_and_arrays() -> None:
    event = {"a": {"b": ["x", {"c": "deep"}]}, "0": "zero", "é": "accent"}
    assert found("body:a.b.0", event) == "x"
    assert found("body:a.b.1.c", event) == "deep"
    assert found("body:0", event) == "zero"
    assert found("body:é", event) == "accent"
    for missing in ("body:a.b.2", "body:a.b.-1", "body:a.b.x", "body:a.x.y", "body:a.b.0.c"):
        assert found(missing, event) is None
    assert found("body:0", ["first"]) == "first"
    assert found("body:" + "9" * 5000, ["first"]) is None
    assert found("body:a", UNDECODED) is None


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("x", "x"),
        (7, "7"),
        (10**40, "1" + "0" * 40),
        (1.5, "1.5"),
        (True, "true"),
        (False, "false"),
        ("", None),
        (None, None),
        ({}, None),
        ([], None),
        ({"a": 1}, None),
    ],
)
def test_scalars_become_text_and_the_rest_is_not_found(value: object, text: str | None) -> None:
    assert found("body:v", {"v": value}) == text


def test_headers_are_found_whatever_their_case() -> None:
    titled = CIMultiDictProxy(CIMultiDict({"X-GitHub-Event": "push"}))
    assert compile_source("header:X-GitHub-Event")(titled, None, b"") == "push"
    assert found("header:X-GitHub-Event", None, {"x-github-event": "push"}) == "push"
    assert found("header:X-GitHub-Event", None, {"x-github-event": ""}) is None


def test_of_several_sources_the_first_that_finds_something_wins() -> None:
    source = "header:svix-id | header:webhook-id | body:id"
    assert found(source, {"id": 3}, {"webhook-id": "2", "svix-id": "1"}) == "1"
    assert found(source, {"id": 3}, {"webhook-id": "2", "svix-id": ""}) == "2"
    assert found(source, {"id": 3}) == "3"
    assert found(source, {}) is None


@pytest.mark.parametrize(
    "source",
    [
        "",
        "x",
        "header:",
        "header:X Y",
        "header:é",
        "body:",
        "body:a..b",
        "cookie:x",
        "field:t",
        "hash | none",
        "header:a |",
        "Body:a",
    ],
)
def test_a_source_that_means_nothing_tells_what_to_write(source: str) -> None:
    for compile_any in (compile_source, compile_dedupe):
        with pytest.raises(ValueError, match=r'write "header:X-Name", "body:dotted\.path"'):
            compile_any(source)


def test_every_preset_names_sources_that_compile() -> None:
    for scheme in PRESETS.values():
        compile_event_type(scheme.event_type)
        compile_dedupe(scheme.dedupe)


def test_an_event_type_is_cut_and_may_be_missing() -> None:
    event_type = compile_event_type("body:type")
    assert event_type({}, {"type": "x" * 201}, b"") == "x" * 200
    assert event_type({}, UNDECODED, b"") is None
    assert compile_event_type("")({}, {"type": "x"}, b"") is None


def test_a_dedupe_key_that_is_not_found_is_the_hash_of_the_raw_body() -> None:
    for source in ("body:id", "header:X-Id"):
        for decoded in ({}, {"id": ""}, {"id": None}, {"id": {}}, UNDECODED):
            assert compile_dedupe(source)({}, decoded, b"raw") == sha256(b"raw")
    assert compile_dedupe("hash")({}, {"id": "1"}, b"raw") == sha256(b"raw")
    assert compile_dedupe("none")({}, {"id": "1"}, b"raw") is None


def test_dedupe_keys_that_cannot_be_stored_stay_different() -> None:
    dedupe = compile_dedupe("body:id")
    awkward = ["a\0", "a\ufffd", "a\ud800", "a\udfff", "x" * 256, "x" * 257, "x" * 255]
    keys = [dedupe({}, {"id": text}, b"") for text in awkward]
    assert len(set(keys)) == len(awkward)
    assert all(key and len(key) <= 255 and storable(key) for key in keys)
    assert keys[-1] == "x" * 255


@given(any_json, any_text, st.binary(max_size=50))
@example({"a": ["\0\ud800"]}, "\udcff\0", b"")
def test_whatever_is_found_is_storable(decoded: object, header: str, body: bytes) -> None:
    for source in ("header:x", "body:a", "body:0", "body:a.0", "body:0.a | header:x", "hash"):
        for wrapped in (decoded, [decoded], {"a": decoded}, {"a": [decoded]}):
            headers = {"x": header}
            assert storable(compile_source(source)(headers, wrapped, body))
            event_type = compile_event_type(source)(headers, wrapped, body)
            assert storable(event_type)
            assert len(event_type or "") <= 200
            key = compile_dedupe(source)(headers, wrapped, body)
            assert key
            assert storable(key)
            assert len(key) <= 255


@given(st.binary(max_size=300), st.none() | any_text | st.sampled_from([JSON, FORM]))
def test_decoding_never_raises(body: bytes, content_type: str | None) -> None:
    decode_body(body, content_type)


@given(any_json)
def test_what_json_says_is_what_is_decoded(value: object) -> None:
    try:
        expected = json.loads(json.dumps(value, allow_nan=False, ensure_ascii=False).encode())
    except ValueError:  # NaN, infinities and lone surrogates have no JSON
        return
    assert decode_body(json.dumps(value, ensure_ascii=False).encode(), JSON) == expected


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"{} x",
        b"NaN",
        b"\xef\xbb\xbf{}",
        b'"\xff"',
        b'"\\ud800"',
        b"1e999",
        b"1" * 5000,
        b"[" * 100_000,
        b'{"a":' * 100_000 + b"1" + b"}" * 100_000,
        "{}".encode("utf-16"),
        gzip.compress(b"{}", mtime=0),
    ],
)
def test_what_is_no_json_is_undecoded(body: bytes) -> None:
    assert decode_body(body, JSON) is UNDECODED


def test_json_is_tried_whatever_the_content_type() -> None:
    for content_type in (None, "", JSON, "text/plain", "application/vnd.api+json; charset=utf-8"):
        assert decode_body(b'{"a":1,"a":2}', content_type) == {"a": 2}
    assert decode_body(b"null", JSON) is None


@pytest.mark.parametrize(
    ("body", "decoded"),
    [
        (b'{"a":"b&c=d"}', {"a": "b&c=d"}),
        (b' \r\n[{"a": 1}]', [{"a": 1}]),
        (b'payload={"a":1}', {"payload": '{"a":1}'}),
        (b"%7B%22a%22=1", {'{"a"': "1"}),
        (b"{a=b&c=d", {"{a": "b", "c": "d"}),
    ],
)
def test_json_is_json_even_where_it_is_said_to_be_a_form(body: bytes, decoded: object) -> None:
    assert decode_body(body, FORM) == decoded


def test_forms_become_texts_and_lists_where_repeated() -> None:
    body = b"a=1&b=2&a=%C3%A9&empty=&a=3"
    assert decode_body(body, f"{FORM}; charset=utf-8") == {
        "a": ["1", "é", "3"],
        "b": "2",
        "empty": "",
    }
    assert decode_body(b"a=%FF", FORM) is UNDECODED
    assert decode_body(b"a=\xff", FORM) is UNDECODED
    assert decode_body(b"a&" * (MAX_FORM_FIELDS + 1), FORM) is UNDECODED


@pytest.mark.parametrize(
    ("encoding", "packed"),
    [
        ("gzip", gzip.compress(b"hello", mtime=0)),
        ("GZIP ", gzip.compress(b"hel", mtime=0) + gzip.compress(b"lo", mtime=0)),
        ("x-gzip", gzip.compress(b"hello", mtime=0)),
        ("deflate", zlib.compress(b"hello")),
        ("deflate", zlib.compress(b"hello", wbits=-15)),
        ("identity", b"hello"),
        ("", b"hello"),
    ],
)
def test_inflating_stops_at_the_cap(encoding: str, packed: bytes) -> None:
    assert inflate(packed, encoding, 5) == b"hello"
    assert inflate(packed, encoding, 4) is None
    assert inflate(packed, encoding, 0) is None


def test_what_cannot_be_inflated_is_none() -> None:
    packed = gzip.compress(b"hello")
    assert inflate(packed[:-1], "gzip", 100) is None
    assert inflate(packed + b"junk", "gzip", 100) is None
    assert inflate(b"", "gzip", 100) is None
    assert inflate(packed, "br", 100) is None
    assert inflate(packed, "gzip, gzip", 100) is None
    assert inflate(gzip.compress(b"") * 1000, "gzip", 100) is None


def test_a_bomb_takes_no_more_memory_than_the_cap() -> None:
    bomb = gzip.compress(b"\0" * 50_000_000)
    tracemalloc.start()
    try:
        assert inflate(bomb, "gzip", 1000) is None
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak_bytes < 500_000


@given(st.binary(max_size=200), st.sampled_from(["gzip", "deflate", "br", ""]), st.integers(0, 99))
def test_inflating_never_raises_and_never_exceeds(body: bytes, encoding: str, cap: int) -> None:
    inflated = inflate(body, encoding, cap)
    assert inflated is None or len(inflated) <= cap


@given(nested, sources, sources)
@example({"a": None, "b": {"a": "x"}}, "body:a.b", "body:b.a")
@example({"a": {"b": 1}}, "body:a", "body:a.b")
@example([{"a": 1}], "body:0.a", "body:a")
def test_who_decodes_only_what_is_asked_for_finds_the_same(
    value: object, event_type: str, dedupe: str
) -> None:
    body = json.dumps(value).encode("utf-8", "replace")
    decode_json = compile_decoder(event_type, dedupe)
    whole = decode_body(body, JSON)
    if decode_json is None:
        assert "body:" not in event_type + dedupe
    elif whole is not UNDECODED:
        asked = decode_body(body, JSON, decode_json)
        for source in (event_type, dedupe):
            assert found(source, asked) == found(source, whole)


def test_what_is_not_asked_for_is_not_built() -> None:
    decode_json = compile_decoder("body:type | header:X-Type", "body:data.id", "hash")
    assert decode_json is not None
    body = b'{"type":"paid","data":{"id":7,"lines":[1,2]},"more":{"id":8},"odd":"\xff"}'
    assert decode_body(body, JSON, decode_json) == {"type": "paid", "data": {"id": 7}}
    assert decode_body(b'{"data":null,"more":7}', JSON, decode_json) == {"data": None}
    assert decode_body(b'{"data":"7"}', JSON, decode_json) == {"data": "7"}
    assert decode_body(b"type=paid", FORM, decode_json) == {"type": "paid"}
    assert decode_body(b'{"type":"paid","more":}', JSON, decode_json) is UNDECODED
    assert compile_decoder("header:X-Type", "hash") is None


def test_lists_and_names_beyond_ascii_are_built_whole() -> None:
    decode_json = compile_decoder("body:lines.0.id", "body:data.naïf")
    assert decode_json is not None
    body = '{"lines":[{"id":7,"n":8}],"data":{"naïf":1,"b":2},"more":3}'.encode()
    assert decode_json(body) == {"lines": [{"id": 7, "n": 8}], "data": {"naïf": 1, "b": 2}}
