"""A note for a command that ignores text piped to its standard input."""

from __future__ import annotations

import os
import stat
import sys

from rnn_cli.console import remark


def ignored(advice: str) -> None:
    """Print a note that standard input is ignored, if there is something in it.

    Args:
        advice: which command would read it, as the end of a sentence.
    """
    if _waits():
        remark(f"Note: Standard input is ignored: {advice}.")


def _waits() -> bool:
    """Whether standard input is a pipe or a file with something in it."""
    try:
        number = sys.stdin.fileno()
        status = os.fstat(number)
        if stat.S_ISREG(status.st_mode):
            return os.lseek(number, 0, os.SEEK_CUR) < status.st_size
        if not stat.S_ISFIFO(status.st_mode):
            return False
        import fcntl
        import termios

        waiting = fcntl.ioctl(number, termios.FIONREAD, bytes(4))
        return int.from_bytes(waiting, sys.byteorder) > 0
    except (OSError, ValueError, AttributeError, ImportError):  # closed or replaced, or the call does not exist here
        return False
