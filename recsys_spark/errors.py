"""Typed errors. Each message is a sentence that says what was wrong, where, and what to do next."""

from __future__ import annotations


class RecsysError(Exception):
    """Base of every error this package raises on purpose; a command that meets one prints it and exits with 1."""


class ConfigError(RecsysError):
    """A configuration file, an override or a model's parameter is not what it may be; commands exit with 2."""


class SetupError(RecsysError):
    """Java, Python, a jar or write access is missing; the message says what to install or set."""


class SourceError(RecsysError):
    """An input cannot be read: missing file, unknown layout, a header without the mapped columns."""


class RejectedShareError(RecsysError):
    """More input rows were refused than the configuration allows; nothing was written to ``ratings``."""


class AccountingError(RecsysError):
    """Rows in do not equal inserted + updated + duplicates + unchanged + rejected: a bug, never ignored."""


class DownloadError(RecsysError):
    """A published data set could not be fetched, does not match its checksum, or is not safe to unpack."""


class LakeError(RecsysError):
    """A table of the lakehouse is missing, or a step was asked for before the one it reads from."""


class ModelError(RecsysError):
    """A model cannot be fitted, loaded, or used on this data."""


class PublishError(RecsysError):
    """The recommendations of a run date break an invariant and must not be served."""
