"""Where tables and models lie."""

from __future__ import annotations

import re
from pathlib import Path


def absolute_path(path: str) -> str:
    """``path`` without a final slash, and absolute unless it is a URI.

    Parameters
    ----------
    path : str
        Local path, ``file:`` path or URI.

    Returns
    -------
    str
        The URI, or an absolute local path.
    """
    path = re.sub(r"^file:(//)?(?=/)", "", path)
    return path.rstrip("/") if re.match(r"[A-Za-z][\w+.-]+:", path) else str(Path(path).absolute())
