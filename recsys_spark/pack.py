"""``recsys pack``: what a cluster lacks to run a night, as files for spark-submit.

The cluster has Spark with its Python half, and an interpreter of the same minor version. Beside them a night
needs this package, the libraries that it imports, and Delta's jars.
"""

from __future__ import annotations

import re
import shutil
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import Distribution, distribution
from pathlib import Path
from typing import Any

import pyspark
from packaging.requirements import Requirement

import recsys_spark
from recsys_spark.session import get_session

LIBRARIES, JARS = "recsys-libraries.tar.gz", "jars"
OF_THE_CLUSTER = ("pyspark", "py4j")
"""What Spark brings itself."""

ONLY_TO_LOOK = ("deltalake", "rapidfuzz", "opentsne")
"""What a night does without: commands that look at its tables need it."""

_NOT_PACKED = re.compile(r"(^|/)(tests|include|bin)/|\.(pyi|pyx|pxd|h|hpp|a)$|^\.\.|direct_url\.json$")


@dataclass(frozen=True)
class Packed:
    """What was written.

    Attributes
    ----------
    libraries : Path
        Archive for ``--archives``; it unpacks to a folder for ``PYTHONPATH``.
    jars : list of Path
        For ``--jars``.
    """

    libraries: Path
    jars: list[Path]


def pack(folder: Path) -> Packed:
    """Write the libraries and the jars that this process uses to ``folder``. Starts a session.

    Parameters
    ----------
    folder : Path
        Made where it is not there; what was packed there before is replaced.
    """
    folder.mkdir(parents=True, exist_ok=True)
    jars = folder / JARS
    shutil.rmtree(jars, ignore_errors=True)
    jars.mkdir()
    context: Any = get_session().sparkContext
    listed = [Path(jar.removeprefix("file://")) for jar in context.getConf().get("spark.jars", "").split(",")]
    present = {_artifact(jar.name) for jar in (Path(pyspark.__file__).parent / "jars").glob("*.jar")}
    lacking = [jar for jar in listed if jar.is_file() and _artifact(jar.name) not in present]
    copied = [Path(shutil.copy(jar, jars)) for jar in lacking]
    partial = folder / f"{LIBRARIES}.partial"
    with tarfile.open(partial, "w:gz", compresslevel=6) as archive:
        for path, name in _files():
            archive.add(path, name, recursive=False, filter=_of_nobody)
    return Packed(partial.replace(folder / LIBRARIES), sorted(copied))


def _artifact(jar: str) -> str:
    """Name of a jar without its version, and without the group that Ivy writes before it."""
    found = re.match(r"(?:[a-z][\w-]*(?:\.[\w-]+)+?_)?(.+?)-\d[\w.-]*\.jar$", jar)
    return found[1] if found else jar


def _files() -> Iterator[tuple[Path, str]]:
    """Paths of all files to be packed, and their names in the archive."""
    package = Path(recsys_spark.__file__).parent
    for path in sorted(package.rglob("*")):
        if path.is_file() and "__pycache__" not in path.parts:
            yield path, f"{package.name}/{path.relative_to(package).as_posix()}"
    for found in _distributions():
        for file in found.files or []:
            name, path = file.as_posix(), Path(str(found.locate_file(file)))
            if not _NOT_PACKED.search(name) and "__pycache__" not in name and path.is_file():
                yield path, name


def _distributions() -> list[Distribution]:
    """The libraries of this package, and theirs."""
    found: dict[str, Distribution] = {}
    to_see = ["recsys-spark"]
    while to_see:
        name = to_see.pop()
        key = re.sub(r"[-_.]+", "-", name).lower()
        if key in found or key in OF_THE_CLUSTER + ONLY_TO_LOOK:
            continue
        found[key] = distribution(name)
        wanted = map(Requirement, found[key].requires or [])
        to_see += [one.name for one in wanted if one.marker is None or one.marker.evaluate({"extra": ""})]
    return [one for key, one in found.items() if key != "recsys-spark"]


def _of_nobody(member: tarfile.TarInfo) -> tarfile.TarInfo:
    """Readable for all, and of no user."""
    member.uid = member.gid = 0
    member.uname = member.gname = ""
    member.mode |= 0o444
    return member
