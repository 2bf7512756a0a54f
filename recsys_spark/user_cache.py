"""Where what is worth keeping from one process to the next lies."""

from __future__ import annotations

import os
from pathlib import Path


def cache_folder() -> Path | None:
    """The package's folder in the user's cache, perhaps not there yet; None where there is no home."""
    try:
        return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "recsys-spark"
    except RuntimeError:
        return None
