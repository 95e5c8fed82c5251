"""What is shown of a foreign session's statement has no value in it."""

import pytest

from gateway.store.vitals import QUERY_CHARS, without_values


@pytest.mark.parametrize(
    ("sql", "shown"),
    [
        (
            "SELECT * FROM gateway.jobs WHERE id = $1",
            "SELECT * FROM gateway.jobs WHERE id = $1",
        ),
        ("SELECT 'hunter2', 42, -1.5e3", "SELECT ?, ?, ?"),
        ("SELECT E'it\\'s \\\\', 'it''s', U&'x'", "SELECT ?, ?, U&?"),
        ("SELECT $$secret$$, $tag$ se$$cret $tag$", "SELECT ?, ?"),
        ("ALTER ROLE a PASSWORD 'cut in the mid", "ALTER ROLE a PASSWORD ?"),
        ("SELECT $body$cut in the mid", "SELECT ?"),
        ("SELECT 1 -- token=abc\n FROM t /* password */ WHERE x", "SELECT ? FROM t WHERE x"),
        ("SELECT t1.a2 FROM t1 LIMIT 10", "SELECT t1.a2 FROM t1 LIMIT ?"),
        ("SELECT /* cut in the mid", "SELECT"),
    ],
)
def test_no_literal_is_shown(sql: str, shown: str) -> None:
    assert without_values(sql) == shown


def test_a_long_statement_is_cut() -> None:
    assert len(without_values("SELECT " + "a, " * 1000)) <= QUERY_CHARS
