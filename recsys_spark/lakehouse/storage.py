"""Folders beside the tables, on whatever storage they are."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from pyspark.sql import SparkSession


def folders(spark: SparkSession, root: str) -> list[str]:
    """Paths of the folders in ``root``; none where it does not exist.

    Parameters
    ----------
    spark : SparkSession
        Session that knows the storage.
    root : str
        Path or URI.
    """
    system, path = _located(spark, root)
    if not system.exists(path):
        return []
    return sorted(entry.getPath().toString() for entry in system.listStatus(path) if entry.isDirectory())


def file_names(spark: SparkSession, folder: str) -> list[str]:
    """Names of the files in ``folder``, which exists.

    Parameters
    ----------
    spark : SparkSession
        Session that knows the storage.
    folder : str
        Path or URI.
    """
    system, path = _located(spark, folder)
    return [entry.getPath().getName() for entry in system.listStatus(path) if entry.isFile()]


def read_text(spark: SparkSession, path: str) -> str:
    """A whole small file in UTF-8.

    Parameters
    ----------
    spark : SparkSession
        Session that knows the storage.
    path : str
        Path or URI.
    """
    system, found = _located(spark, path)
    stream = system.open(found)
    try:
        jvm: Any = spark._jvm
        return bytes(jvm.org.apache.commons.io.IOUtils.toByteArray(stream)).decode()
    finally:
        stream.close()


def write_text(spark: SparkSession, path: str, text: str) -> None:
    """Write a file in UTF-8, in place of what is there; makes its folder.

    Parameters
    ----------
    spark : SparkSession
        Session that knows the storage.
    path : str
        Path or URI.
    text : str
        What it is to hold.
    """
    system, found = _located(spark, path)
    stream = system.create(found, True)
    try:
        stream.write(bytearray(text.encode()))
    finally:
        stream.close()


def modified(spark: SparkSession, path: str) -> datetime:
    """When a folder was written to last.

    Parameters
    ----------
    spark : SparkSession
        Session that knows the storage.
    path : str
        Path or URI.
    """
    system, found = _located(spark, path)
    return datetime.fromtimestamp(system.getFileStatus(found).getModificationTime() / 1e3, UTC)


def remove(spark: SparkSession, path: str) -> None:
    """Remove a folder and all in it.

    Parameters
    ----------
    spark : SparkSession
        Session that knows the storage.
    path : str
        Path or URI.
    """
    system, found = _located(spark, path)
    system.delete(found, True)


def is_on_disk(spark: SparkSession, path: str) -> bool:
    """Whether a path is of this machine's file system, as Spark takes it.

    Parameters
    ----------
    spark : SparkSession
        Session that knows the storage.
    path : str
        Path or URI; a path without a scheme is of the file system that the cluster has by default.
    """
    system, _ = _located(spark, path)
    return bool(system.getUri().getScheme() == "file")


def _located(spark: SparkSession, path: str) -> tuple[Any, Any]:
    """File system and path of Hadoop."""
    jvm: Any = spark._jvm
    hadoop_path = jvm.org.apache.hadoop.fs.Path(path)
    return hadoop_path.getFileSystem(spark._jsparkSession.sessionState().newHadoopConf()), hadoop_path
