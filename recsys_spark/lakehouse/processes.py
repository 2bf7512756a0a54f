"""What a process is called in a table, and whether one of this machine is gone."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import psutil


def this_process() -> str:
    """Number and start of this process, and the namespace in which the number counts."""
    space = Path("/proc/self/ns/pid")
    started = int(psutil.Process().create_time())
    return f"{os.getpid()} {started} {space.readlink() if space.is_symlink() else ''}".strip()


def is_gone(host: str, process: str) -> bool:
    """Whether a process was one of this machine and has ended; of other machines nothing is known.

    Parameters
    ----------
    host : str
        Name of the machine.
    process : str
        :func:`this_process` of it.
    """
    here = this_process().split()[2:]
    number, started, *there = process.split()
    if host != socket.gethostname() or not here or there != here:
        return False
    try:
        return int(psutil.Process(int(number)).create_time()) != int(started)
    except psutil.NoSuchProcess:
        return True
