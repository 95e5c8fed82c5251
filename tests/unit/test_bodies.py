"""Bodies as a vendor's own parser reads them."""

from __future__ import annotations

from email.parser import BytesParser
from email.policy import HTTP
from typing import Any
from urllib.parse import parse_qsl

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.bodies import encode_body, encode_form, encode_multipart
from gateway.errors import RenderFailed

texts = st.text(st.characters(exclude_categories=("Cs",)), max_size=20)


def parts_of(value: Any) -> list[tuple[str, str | None, str, bytes]]:
    """The parts (name, file name, content type, content) as the standard library reads them."""
    body, content_type = encode_multipart(value)
    head = f"Content-Type: {content_type}\r\n\r\n".encode()
    message = BytesParser(policy=HTTP).parsebytes(head + body)
    assert message.is_multipart()
    assert not message.defects
    return [
        (
            part.get_param("name", header="content-disposition"),
            part.get_filename(),
            part.get_content_type(),
            part.get_payload(decode=True),
        )
        for part in message.iter_parts()
    ]


def test_a_form_repeats_lists_nests_tables_and_leaves_null_out() -> None:
    value = {"a b": "1&2=é", "n": 1.5, "t": True, "no": None, "l": ["x", None, 2], "e[]": [1, 2]}
    value |= {"address": {"city": "Köln", "geo": {"lat": 1}}}
    body = encode_form(value)
    assert body.startswith(b"a+b=1%262%3D%C3%A9&n=1.5&t=true&l=x&l=2&")
    assert parse_qsl(body.decode()) == [
        *(("a b", "1&2=é"), ("n", "1.5"), ("t", "true"), ("l", "x"), ("l", "2")),
        *(("e[]", "1"), ("e[]", "2"), ("address[city]", "Köln"), ("address[geo][lat]", "1")),
    ]


@given(st.dictionaries(texts, texts))
def test_every_form_is_read_as_it_was_written(value: dict[str, str]) -> None:
    read = parse_qsl(encode_form(value).decode(), keep_blank_values=True)
    assert read == list(value.items())


def test_a_multipart_body_has_fields_and_files() -> None:
    assert parts_of(
        {
            "title": "Grüße",
            "tags": ["a", None, 2],
            "none": None,
            "report": {"content": "a;b\r\n", "filename": "r.csv", "content_type": "text/csv"},
            "image": {"base64": "AP8="},
        }
    ) == [
        ("title", None, "text/plain", "Grüße".encode()),
        ("tags", None, "text/plain", b"a"),
        ("tags", None, "text/plain", b"2"),
        ("report", "r.csv", "text/csv", b"a;b\r\n"),
        ("image", "image", "application/octet-stream", b"\x00\xff"),
    ]


@given(st.dictionaries(st.text(max_size=10), st.text(max_size=30), min_size=1))
def test_no_name_or_content_breaks_out_of_its_part(value: dict[str, str]) -> None:
    try:
        body, content_type = encode_multipart(value)
    except RenderFailed:
        assert any(
            "\ud800" <= sign <= "\udfff" for text in [*value, *value.values()] for sign in text
        )
        return
    boundary = content_type.partition("boundary=")[2].encode()
    assert body.count(b"--" + boundary) == len(value) + 1
    contents = [part.partition(b"\r\n\r\n") for part in body.split(b"--" + boundary)[1:-1]]
    assert [content[:-2] for _, _, content in contents] == [
        text.encode() for text in value.values()
    ]
    for head, _, _ in contents:
        assert head.startswith(b'\r\nContent-Disposition: form-data; name="')
        assert head.count(b"\n") == 1


def test_a_quote_ends_no_name() -> None:
    body, _ = encode_multipart({'a"; filename="b': {"content": "x", "filename": 'c"; x="d'}})
    assert b'; name="a%22; filename=%22b"; filename="c%22; x=%22d"\r\n' in body


def test_the_same_value_gives_the_same_bytes_in_every_attempt() -> None:
    value = {"a": "1", "b": {"content": "x"}}
    assert encode_multipart(value) == encode_multipart(value)
    assert encode_multipart(value)[1] != encode_multipart({"a": "2"})[1]


@pytest.mark.parametrize(
    ("body_format", "value", "words"),
    [
        ("form", [1], "made of a table"),
        ("form", "a=b", "made of a table"),
        ("form", {"a": "\ud800"}, "Unicode"),
        ("form", {"a": float("nan")}, None),
        ("raw", "\ud800", "Unicode"),
        ("multipart", None, "made of a table"),
        ("multipart", {"a": None}, "at least one part"),
        ("multipart", {"a": {"content": "x", "base64": "eA=="}}, "either"),
        ("multipart", {"a": {"content": None}}, "is null"),
        ("multipart", {"a": {"base64": "?"}}, "no base64"),
        ("multipart", {"a": {"content": "x", "mode": 1}}, "unknown keys: mode"),
        ("multipart", {"a": {"content": "x", "content_type": "a/b\r\nX: 1"}}, "content_type"),
    ],
)
def test_what_cannot_be_written_fails_and_says_why(
    body_format: Any, value: object, words: str | None
) -> None:
    if words is None:
        assert encode_body(value, body_format)[0] == b"a=null"
        return
    with pytest.raises(RenderFailed, match=words):
        encode_body(value, body_format)


def test_a_form_nested_without_end_is_refused() -> None:
    value: dict[str, Any] = {}
    value["a"] = value
    with pytest.raises(RenderFailed, match="nested"):
        encode_form(value)
