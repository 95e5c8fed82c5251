"""A bookmark: claims read on from it, and never take a backlog for empty of which it hid a part."""

from __future__ import annotations

from uuid import UUID

from hypothesis import given
from hypothesis import strategies as st

from gateway.queue.bookmark import REREAD_SECONDS, Bookmark
from gateway.store.writes import Position

HERE = Position(5, UUID(int=7))
THERE = Position(5, UUID(int=8))


def test_the_first_claim_reads_from_the_start_and_the_next_reads_on() -> None:
    bookmark = Bookmark()
    assert bookmark.open(1.0) is None
    assert bookmark.place(HERE, 1.01)
    assert bookmark.open(1.02) == HERE
    assert bookmark.place(THERE, 1.03)
    assert bookmark.open(1.04) == THERE


def test_a_backlog_read_from_its_start_to_its_end_holds_no_more() -> None:
    bookmark = Bookmark()
    bookmark.open(1.0)
    assert not bookmark.place(None, 1.01)


def test_a_backlog_read_to_its_end_from_a_bookmark_is_read_from_its_start() -> None:
    bookmark = Bookmark()
    bookmark.open(1.0)
    bookmark.place(HERE, 1.01)
    bookmark.open(1.02)
    assert bookmark.place(None, 1.03)
    assert bookmark.open(1.04) is None


def test_what_is_lost_while_a_claim_is_under_way_stays_lost() -> None:
    bookmark = Bookmark()
    bookmark.open(1.0)
    bookmark.lose()
    assert bookmark.place(None, 1.01)  # who knows
    bookmark.open(1.02)
    bookmark.lose()
    assert bookmark.place(HERE, 1.03)
    assert bookmark.open(1.04) is None


def test_reading_from_the_start_takes_a_small_share_of_the_time_however_slow_it_is() -> None:
    bookmark, now, from_start, at_all = Bookmark(), 0.0, 0.0, 0.0
    for _ in range(10_000):
        took = 2.0 if bookmark.open(now) is None else 0.01
        now += took
        at_all += took
        from_start += took if took == 2.0 else 0.0
        bookmark.place(HERE, now)
    assert 0.02 < from_start / at_all < 0.11


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["claim", "lose", "claim, lost meanwhile"]),
            st.sampled_from([None, HERE, THERE]),
            st.floats(0.0, 0.4),
        ),
        max_size=60,
    )
)
def test_laws(acts: list[tuple[str, Position | None, float]]) -> None:
    bookmark, now, placed, last_start = Bookmark(), 0.0, None, -REREAD_SECONDS
    for act, reached, seconds in acts:
        if act == "lose":
            bookmark.lose()
            placed = None
            continue
        begin = bookmark.open(now)
        assert begin in (None, placed)
        assert begin is None or now - last_start < REREAD_SECONDS
        if begin is None:
            assert placed is None or now - last_start >= REREAD_SECONDS
        if act == "claim, lost meanwhile":
            bookmark.lose()
        more = bookmark.place(reached, now := now + seconds)
        if begin is None:
            last_start = now if seconds <= REREAD_SECONDS / 10 else now + 10 * seconds - 1.0
        lost = act != "claim"
        placed = None if lost else reached
        # For empty is taken only what was read from its start to its end, with nothing added since.
        assert more == (lost or reached is not None or begin is not None)
