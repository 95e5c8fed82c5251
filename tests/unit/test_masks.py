"""A masked field is masked wherever a path may mean it; what is not understood is left out."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.masks import masked_body, parse_path


def masked(value: Any, *paths: str) -> Any:
    body = masked_body(
        json.dumps(value).encode(), "application/json", frozenset(map(parse_path, paths))
    )
    return json.loads(body)


@pytest.mark.parametrize(
    ("path", "value", "expected"),
    [
        ("token", {"token": "t", "a": {"token": "u"}}, {"token": "***", "a": {"token": "u"}}),
        ("token", {"Token": ["t"]}, {"Token": "***"}),
        ("token", [{"token": 1}, 2], [{"token": "***"}, 2]),
        ("card.number", {"card": {"number": 1, "x": 2}}, {"card": {"number": "***", "x": 2}}),
        ("card.number", {"card": [[{"number": 1}]]}, {"card": [[{"number": "***"}]]}),
        ("card.number", {"number": 1, "card": 2}, {"number": 1, "card": 2}),
        ("*.token", {"token": 1, "a": {"token": 2, "b": [{"token": 3}]}}, None),
        ("*.*.token", {"token": 1, "a": {"token": 2}}, None),
        ("a.*.token", {"token": 1, "a": {"b": {"c": {"token": 2}}, "token": 3}}, None),
        ("*.a.*.token", {"x": {"a": {"a": {"y": {"token": 1}}}}}, None),
        ("card.*", {"card": {"a": 1, "b": {"c": 2}}, "x": 3}, None),
        ("*", {"a": 1, "b": [2]}, {"a": "***", "b": "***"}),
    ],
)
def test_a_path_finds_its_fields(path: str, value: Any, expected: Any) -> None:
    shown = {
        "*.token": {"token": "***", "a": {"token": "***", "b": [{"token": "***"}]}},
        "*.*.token": {"token": "***", "a": {"token": "***"}},
        "a.*.token": {"token": 1, "a": {"b": {"c": {"token": "***"}}, "token": "***"}},
        "*.a.*.token": {"x": {"a": {"a": {"y": {"token": "***"}}}}},
        "card.*": {"card": {"a": "***", "b": "***"}, "x": 3},
    }
    assert masked(value, path) == (expected or shown[path])


documents = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(0, 9), st.text("ab", max_size=3)),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.dictionaries(st.sampled_from(["a", "b", "token"]), inner, max_size=3),
    ),
    max_leaves=20,
)


@given(documents)
def test_a_star_in_front_masks_at_every_depth_and_nothing_else(value: Any) -> None:
    def by_hand(item: Any) -> Any:
        if isinstance(item, dict):
            return {k: "***" if k == "token" else by_hand(v) for k, v in item.items()}
        return [by_hand(each) for each in item] if isinstance(item, list) else item

    assert masked(value, "*.token") == by_hand(value)
    assert masked(value, "*.none") == value


@pytest.mark.parametrize(
    ("body", "content_type", "words"),
    [
        (b"<html>token", "text/html", b"neither JSON nor a form"),
        (b'{"token": "cut of', "application/json", b"neither"),
        (b"[" * 100_000, "application/json", b"neither"),
        (b"\xff", "application/x-www-form-urlencoded", b"neither"),
        (b"a" * (2 << 20), "text/plain", b"so long"),
        (b"--x\r\n", "Multipart/Form-Data; boundary=x", b"multipart/form-data"),
    ],
)
def test_what_cannot_be_looked_into_is_left_out(
    body: bytes, content_type: str, words: bytes
) -> None:
    shown = masked_body(body, content_type, frozenset({("token",)}))
    assert words in shown
    assert len(shown) < 100


def test_forms_are_masked_by_their_names() -> None:
    body = b"card%5Bnumber%5D=4111&Token=t&a.token=u&x=1+2&empty="
    paths = frozenset(map(parse_path, ["card.number", "*.token"]))
    shown = masked_body(body, "application/x-www-form-urlencoded; charset=utf-8", paths)
    assert shown == b"card[number]=***&Token=***&a.token=***&x=1+2&empty="
    assert (
        masked_body(
            b"card%5Bnumber%5D=1", "application/x-www-form-urlencoded", frozenset({("card",)})
        )
        == b"card[number]=***"
    )


@pytest.mark.parametrize("text", ["", ".", "a.", ".a", "a..b", "$.a", "a[0]", "a b"])
def test_what_is_no_path_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="dotted"):
        parse_path(text)
