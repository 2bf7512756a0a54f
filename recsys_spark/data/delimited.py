"""Lines of delimited text into fields.

A quoted field may contain delimiters and doubled (or escaped) quotes, but no line break: text is read line by
line, so that a line that cannot be split can still be shown.
"""

from __future__ import annotations

import re
from functools import reduce
from operator import or_

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from recsys_spark.config import Delimited
from recsys_spark.schema import RAW

CP1252 = {
    byte: bytes([byte]).decode("cp1252")
    for byte in range(0x80, 0xA0)
    if byte not in (0x81, 0x8D, 0x8F, 0x90, 0x9D)
}
"""The characters that Windows puts where Latin-1 has control characters, as every browser reads them."""


def decoded(line: Column, encoding: str) -> Column:
    """The bytes of a line as text.

    Parameters
    ----------
    line : Column
        A line as Spark reads it, of bytes in ``encoding``.
    encoding : str
        ``utf-8`` or ``latin-1``, which is read as Windows' cp1252.

    Returns
    -------
    Column
        Of type string; not valid UTF-8 where the bytes are not text in ``utf-8``.
    """
    if encoding == "utf-8":
        return line
    text = F.decode(line.cast("binary"), "ISO-8859-1")
    codes = "".join(map(chr, CP1252))
    return F.when(text.rlike("[\x80-\x9f]"), F.translate(text, codes, "".join(CP1252.values()))).otherwise(
        text
    )


def with_fields(lines: DataFrame, text: Delimited) -> DataFrame:
    """Split every line.

    Parameters
    ----------
    lines : DataFrame
        ``raw``, decoded.
    text : Delimited
        How lines divide into fields.

    Returns
    -------
    DataFrame
        With ``fields``, the line's fields as they are written (array<string>), and ``quoted``, whether it
        was split with regard to quotes or escapes, each field then after its delimiter; those of lines that
        are not :func:`readable` are not all.
    """
    plain = F.split(RAW, re.escape(text.delimiter), -1)
    special = [mark for mark in (text.quote, text.escape) if mark]
    if not special:
        return lines.select("*", plain.alias("fields"), F.lit(False).alias("quoted"))
    quoted = reduce(or_, (F.contains(F.col(RAW), F.lit(mark)) for mark in special))
    # each match begins with a delimiter: Java skips a character after an empty match
    line = F.concat(F.lit(text.delimiter), F.col(RAW))
    parts = F.regexp_extract_all(line, F.lit(_field_pattern(text)), F.lit(0))
    # a column of its own, so that a line is split once and not once for each field
    return lines.select("*", quoted.alias("quoted"), F.when(quoted, parts).otherwise(plain).alias("fields"))


def readable(text: Delimited) -> Column:
    """Whether all of a line's quoted fields are closed, and followed by nothing but a delimiter.

    Parameters
    ----------
    text : Delimited
        How lines divide into fields.

    Returns
    -------
    Column
        Of type boolean, of the columns of :func:`with_fields`.
    """
    # matches are contiguous: what is left over could not be read
    length = F.length(RAW) + len(text.delimiter)
    return ~F.col("quoted") | (F.length(F.array_join("fields", "")) == length)


def field(position: int, text: Delimited) -> Column:
    r"""The value of one field of :func:`with_fields`.

    Parameters
    ----------
    position : int
        Position of the field, from 0.
    text : Delimited
        How lines divide into fields.

    Returns
    -------
    Column
        Of type string: null where the field is empty, or an unquoted ``\N`` where escapes are declared; a
        quoted empty field is an empty text.
    """
    part = F.get("fields", F.lit(position))
    plain = F.when(part != "", part)
    if not text.quote and not text.escape:
        return plain
    return F.when(F.col("quoted"), _value(part, text)).otherwise(plain)


def unclosed(text: Delimited) -> Column:
    """Whether a quoted field is not closed on its line, which is then only a part of a row.

    Parameters
    ----------
    text : Delimited
        How lines divide into fields.

    Returns
    -------
    Column
        Of type boolean, of the columns of :func:`with_fields`.
    """
    if not text.quote:
        return F.lit(False)
    line: Column = F.col(RAW)
    if text.escape:
        for pair in (text.escape * 2, text.escape + text.quote):
            line = F.replace(line, F.lit(pair), F.lit(""))
    quotes = F.length(line) - F.length(F.replace(line, F.lit(text.quote), F.lit("")))
    return F.col("quoted") & (quotes % 2 == 1)


def _field_pattern(text: Delimited) -> str:
    """A regular expression of a delimiter and the field after it, contiguous with the last match.

    Its repetitions are of single characters or bounded, as Java recurses for those of groups.
    """
    delimiter, quote, escape = map(re.escape, (text.delimiter, text.quote, text.escape))
    first, rest = re.escape(text.delimiter[0]), re.escape(text.delimiter[1:])
    inside = [f"{first}(?!{rest})"] if rest else []  # the beginning of a longer delimiter, and no more
    if not quote:
        field = _repeated(f"[^{first}{escape}]", [f"{escape}.", *inside])
    else:
        pairs = [f"{escape}.", quote * 2] if escape else [quote * 2]
        enclosed = quote + _repeated(f"[^{quote}{escape}]", pairs) + quote
        bare = _repeated(f"[^{first}{escape}]", [*inside, f"{escape}(?!{escape})"] if escape else inside)
        field = f"(?:{enclosed}|(?!{quote}){bare})"
    return f"(?s)\\G{delimiter}{field}(?={delimiter}|\\z)"


def _repeated(ordinary: str, pairs: list[str]) -> str:
    """Characters of the class ``ordinary``, and up to 2,000 of the ``pairs`` among them."""
    if not pairs:
        return f"{ordinary}*+"
    return f"{ordinary}*+(?:(?:{'|'.join(pairs)}){ordinary}*+){{0,2000}}+"


def _value(part: Column, text: Delimited) -> Column:
    """The value of a field as it is written, with its delimiter before it.

    Where quotes and escapes are declared, an unquoted field is as Spark and Python write it: a single escape
    is itself (Spark), before a quote it is none (Python). In what two in a row mean the two differ: that is
    no field.
    """
    start = len(text.delimiter)
    bare = F.substr(part, F.lit(start + 1))
    null = part == text.delimiter
    if text.escape:
        null = null | (part == F.lit(f"{text.delimiter}{text.escape}N"))
    if not text.quote:
        return F.when(~null, _unescaped(bare, text))
    if text.escape:
        bare = F.replace(bare, F.lit(text.escape + text.quote), F.lit(text.quote))
    inner = F.substr(part, F.lit(start + 2), F.length(part) - (start + 2))
    quoted = F.startswith(part, F.lit(text.delimiter + text.quote))
    return F.when(quoted, _unescaped(inner, text)).when(~null, bare)


def _unescaped(value: Column, text: Delimited) -> Column:
    """``value`` without doubled quotes and escapes: an escaped ``n``, ``t``, ``r`` or ``0`` is the control
    character of databases' exports, any other escaped character is itself.
    """
    if not text.escape:
        return F.replace(value, F.lit(text.quote * 2), F.lit(text.quote))
    kept = "\ufdd0"  # no character
    plain = F.replace(value, F.lit(text.escape * 2), F.lit(kept))
    for letter, character in (("n", "\n"), ("t", "\t"), ("r", "\r"), ("0", "\0")):
        plain = F.replace(plain, F.lit(text.escape + letter), F.lit(character))
    marks = "|".join(re.escape(mark) for mark in (text.escape, text.quote) if mark)
    plain = F.regexp_replace(plain, f"(?s)(?:{marks})(.)", "$1")
    return F.replace(plain, F.lit(kept), F.lit(text.escape))
