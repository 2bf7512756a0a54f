"""Secrets that texts of others may hold: error messages, addresses, settings."""

from __future__ import annotations

import re
from typing import Any

MASK = "***"

_NAMES = r"secret|passw|token|access[._-]?key|account[._-]?key|credential"
SECRET_NAME = re.compile(f"(?i){_NAMES}|signature")
"""Names of settings whose values are secrets, as Spark's own ``spark.redaction.regex``, and some more."""

_VALUES = (
    # user and password, or key and secret, of an address
    re.compile(r"(?<=://)[^/\s@:'\"]+:[^/\s@'\"]+(?=@)"),
    # name=value and "name": "value"
    re.compile(rf"(?i)(?<![\w.-])([\w.-]*(?:{_NAMES})[\w.-]*[\"']?\s?[=:]\s?[\"']?)([^\s\"',;&}}]{{4,}})"),
    # the signature of a shared address
    re.compile(r"(?i)([?&](?:sig|signature|x-amz-signature|x-amz-security-token)=)([^\s\"'&]+)"),
    # an access key's id
    re.compile(r"\b(?:AKIA|ASIA)[A-Z0-9]{16}\b"),
)


def masked(text: str) -> str:
    """``text`` with :data:`MASK` in the place of what looks like a secret.

    Parameters
    ----------
    text : str
        Any text.

    Examples
    --------
    >>> masked("cannot read s3a://key:hidden@shop/ratings: fs.s3a.secret.key=abcd1234 is wrong")
    'cannot read s3a://***@shop/ratings: fs.s3a.secret.key=*** is wrong'
    """
    for pattern in _VALUES:
        text = pattern.sub(lambda found: (found[1] if found.re.groups else "") + MASK, text)
    return text


def without_secrets(tree: Any) -> Any:
    """Nested dicts and lists with the values of secret names, and secrets in other texts, masked.

    Parameters
    ----------
    tree : dict, list or scalar
        As of JSON.
    """
    if isinstance(tree, dict):
        return {
            name: MASK if SECRET_NAME.search(str(name)) and isinstance(value, str) else without_secrets(value)
            for name, value in tree.items()
        }
    if isinstance(tree, list):
        return [without_secrets(value) for value in tree]
    return masked(tree) if isinstance(tree, str) else tree
