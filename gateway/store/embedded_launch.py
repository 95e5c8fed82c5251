"""Become a program of PostgreSQL that cannot outlive the gateway. Run by path, never imported.

A script of its own rather than a ``preexec_fn``: Python code between fork and exec may deadlock
in a process with threads, and as root the interpreter may lie where the server's account cannot
execute it, so that rights can only be given up after it has started.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1  # <linux/prctl.h>


def main(signal_number: int, parent_pid: int, uid: int, gid: int, command: list[str]) -> None:
    """Give up root's rights, ask for *signal_number* at the parent's death, and exec *command*."""
    os.umask(0o077)
    signal.signal(signal_number, signal.SIG_DFL)  # ignored signals stay ignored across exec
    if os.geteuid() == 0:
        os.setgroups([])
        os.setgid(gid)
        os.setuid(uid)
    # After setuid, which clears it; exec keeps it, since these binaries are not set-uid.
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(PR_SET_PDEATHSIG, signal_number, 0, 0, 0) != 0:
        sys.exit(f"prctl(PR_SET_PDEATHSIG): {os.strerror(ctypes.get_errno())}")
    if os.getppid() != parent_pid:  # it died before we asked
        sys.exit("the gateway ended while its PostgreSQL was being started")
    try:
        os.execv(command[0], command)  # noqa: S606 - a fixed argument list from embedded.py
    except OSError as error:
        sys.exit(f"cannot execute {command[0]}: {error.strerror}")


if __name__ == "__main__":
    signal_number, parent_pid, uid, gid = (int(number) for number in sys.argv[1:5])
    main(signal_number, parent_pid, uid, gid, sys.argv[5:])
