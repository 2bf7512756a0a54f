"""Typed errors. Each message says what is wrong, where, and what to do next."""

from __future__ import annotations

import re


class RecsysError(Exception):
    """Base of every error that this package raises on purpose; a command prints it and exits with 1."""


class ConfigError(RecsysError):
    """A configuration file, an override or a model's parameter is not valid; commands exit with 2."""


class SetupError(RecsysError):
    """Java, Python, a jar or write access is missing; the message says what to install or set."""


class SourceError(RecsysError):
    """An input cannot be read: missing file, unknown layout, a header without the mapped columns."""


class RejectedFractionError(RecsysError):
    """More input rows were rejected than the configuration allows; nothing was written to ``ratings``."""


class AccountingError(RecsysError):
    """Rows in do not equal inserted + updated + duplicates + unchanged + rejected: a bug, never ignored."""


class DownloadError(RecsysError):
    """A published data set could not be fetched, does not match its checksum, or is not safe to unpack."""


class LakeError(RecsysError):
    """A table of the lakehouse is missing, or a step was run before the one it reads from."""


class ModelError(RecsysError):
    """A model cannot be fitted, loaded, or used on this data."""


class PublishError(RecsysError):
    """The recommendations of a run date break an invariant and must not be served."""


class GroupError(RecsysError):
    """The tasks of a training stage cannot form a group, or one of them was lost."""


def summary(error: BaseException) -> str:
    """One line that says what went wrong, without what Java and Python workers wrap around the cause.

    Parameters
    ----------
    error : BaseException
        Any error.

    Returns
    -------
    str
        The cause where it is further down in the message; else the first line, or the error's type.
    """
    lines = [line.strip() for line in str(error).strip().splitlines() if line.strip()]
    if not lines:
        return type(error).__name__
    raised = [line for line in lines if re.match(r"^(\w+\.)*\w*(Error|Exception|Problem): ", line)]
    if "Python worker" in lines[0] and raised:
        return raised[-1]
    if lines[0].startswith("An error occurred while calling") and len(lines) > 1:
        return lines[1].removeprefix(": ")
    return lines[0]
