"""Typed errors. Each message says what is wrong, where, and what to do next."""

from __future__ import annotations

import re

from recsys_spark.redaction import masked


class RecsysError(Exception):
    """Base of every error that this package raises on purpose; a command prints it and exits with 1."""


class ConfigError(RecsysError):
    """A configuration file, an override or a model's parameter is not valid; commands exit with 2."""


class UnknownIdError(RecsysError):
    """No user or item has the id that was asked for; commands exit with 2."""


class SetupError(RecsysError):
    """Java, Python, a jar or write access is missing; the message says what to install or set."""


class SourceError(RecsysError):
    """An input cannot be read: missing file, unknown layout, a header without the mapped columns."""


class RejectedFractionError(RecsysError):
    """More input rows were rejected than the configuration allows; nothing was written to ``ratings``."""


class AccountingError(RecsysError):
    """Rows in do not add up to those inserted, updated, left out and rejected: a bug, never ignored."""


class DownloadError(RecsysError):
    """A published data set could not be fetched, does not match its checksum, or is not safe to unpack."""


class LakeError(RecsysError):
    """A table of the lakehouse is missing, or a step was run before the one it reads from."""


class ModelError(RecsysError):
    """A model cannot be fitted, loaded, or used on this data."""


class PublishError(RecsysError):
    """The recommendations of a run date break an invariant and must not be served."""


class GateError(RecsysError):
    """The lists of a run date failed a check of the gate, and are not served; commands exit with 3."""


class GroupError(RecsysError):
    """The tasks of a training stage cannot form a group, or one of them was lost."""


MORE_MEMORY = (
    "give it more memory (session.memory, or --driver-memory and --executor-memory under spark-submit), or "
    "make the blocks smaller (recommend.block_sizes)"
)
NOT_PACKED = (
    "the executors lack it: run recsys pack, and submit with --archives dist/recsys-libraries.tar.gz#env "
    "--conf spark.executorEnv.PYTHONPATH=env"
)
NO_ANSWER = f"Spark's Java process no longer answers: most likely it ran out of memory, so {MORE_MEMORY}"


def summary(error: BaseException) -> str:
    """One line that says what went wrong, without what Java and Python workers wrap around the cause.

    Parameters
    ----------
    error : BaseException
        Any error.

    Returns
    -------
    str
        The error's first line, or its type, and in brackets the innermost of its Java causes; of a Python
        worker's error the cause only; :data:`NO_ANSWER` when Java cannot be asked any more. Where memory ran
        out it ends in :data:`MORE_MEMORY`, where executors lack this package in :data:`NOT_PACKED`, and
        where a disk is full in what to do. Secrets are masked.
    """
    line = _told(error)
    line = masked(line)
    ran_out = re.search(r"OutOfMemory|OUT_OF_MEMORY|Java heap space|GC overhead limit", line)
    if ran_out:
        return f"{line}: {MORE_MEMORY}"
    full = "No space left on device"  # which may stand in brackets, and is followed by the mend all the same
    if full in line:
        return line.replace(full, f"{full}: make room, and run it again", 1)
    return f"{line}: {NOT_PACKED}" if "No module named 'recsys_spark'" in line else line


def _told(error: BaseException) -> str:
    if isinstance(error, ConnectionError) or type(error).__name__ == "Py4JNetworkError":
        return NO_ANSWER
    try:
        if _is_of_no_answer(error):
            return NO_ANSWER
        lines = [line.strip() for line in str(error).strip().splitlines() if line.strip()]
        cause = _java_cause(error, lines)
    except Exception:  # the text is asked of Java
        return NO_ANSWER
    if not lines:
        return type(error).__name__
    raised = [line for line in lines if re.match(r"^(\w+\.)*\w*(Error|Exception|Problem): ", line)]
    if "Python worker" in lines[0] and raised:
        return raised[-1]
    wrapped = lines[0].startswith("An error occurred while calling") and len(lines) > 1
    first = lines[1].removeprefix(": ") if wrapped else lines[0]
    return f"{first} ({cause})" if cause and cause not in first else first


def _is_of_no_answer(error: BaseException) -> bool:
    """Whether py4j says of a call, or of a name it looked up, no more than that nobody answered."""
    only_a_call = re.fullmatch(r"An error occurred while calling \S+", str(error))
    return type(error).__name__ == "Py4JError" and (
        only_a_call is not None or str(error).endswith("does not exist in the JVM")
    )


def _java_cause(error: BaseException, lines: list[str]) -> str | None:
    """The innermost cause, as the error's stack or its Java original has it."""
    causes = [line.removeprefix("Caused by: ") for line in lines if line.startswith("Caused by: ")]
    cause = getattr(error, "_origin", None)
    while cause is not None and cause.getCause() is not None:
        cause = cause.getCause()
        causes.append(" ".join(str(cause.toString()).split("\n")[0].split()))
    return causes[-1] if causes else None
