"""Fitted models on disk: Spark ML's JSON metadata, and a Parquet folder for each frame the model consists
of.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from types import MappingProxyType
from typing import Any, Self

from py4j.protocol import Py4JJavaError
from pyspark.errors import PySparkException
from pyspark.ml.util import (
    DefaultParamsReader,
    DefaultParamsWriter,
    MLReadable,
    MLReader,
    MLWritable,
    MLWriter,
)
from pyspark.sql import DataFrame, SparkSession

from recsys_spark.errors import ModelError
from recsys_spark.models.storage import Stored

_FITTED = "fittedValues"
"""Key of the metadata that holds them."""
_MEMBERS = "members"
"""Folder of the models that a model is made of, and key of the metadata that names their classes."""
_STAGE = re.compile(r"/stages/\d+_[^/]+(/members/[^/]+)*/?$")
"""How the folder of a pipeline's stage ends, and of what it is made of."""


class FramesModel(MLWritable, MLReadable[Any]):
    """Mixin of models that are Params, some frames and fitted values: ``write``, ``save``, ``read`` and
    ``load``.

    A subclass defines :meth:`frames`, :meth:`frame_names` and :meth:`from_frames`, and where it has any
    :meth:`fitted_values`. A model that is made of others takes them by :meth:`take_members`.
    """

    _read_from: str | None = None
    _members: Mapping[str, Any] = MappingProxyType({})

    def frames(self) -> dict[str, DataFrame]:
        """The frames that make the model, by name."""
        raise NotImplementedError

    @classmethod
    def from_frames(cls, frames: dict[str, DataFrame]) -> Self:
        """The model made of ``frames``.

        Parameters
        ----------
        frames : dict
            Name of a frame → DataFrame.
        """
        raise NotImplementedError

    @classmethod
    def frame_names(cls) -> tuple[str, ...]:
        """Names of the frames, in the order they are written."""
        raise NotImplementedError

    def fitted_values(self) -> dict[str, Any]:
        """Attributes that the fit found, by name, as JSON has them; they are saved beside the Params and
        set by ``load``.
        """
        return {}

    def member_models(self) -> dict[str, Any]:
        """The models that this one is made of, by name."""
        return dict(self._members)

    def take_members(self, members: Mapping[str, Any]) -> None:
        """Let this model be made of others, which are saved and loaded with it.

        Parameters
        ----------
        members : mapping
            Name → model.
        """
        self._members = dict(members)

    def write(self) -> MLWriter:
        """A writer; ``write().overwrite().save(path)`` replaces an existing folder."""
        return _FramesWriter(self)

    def save(self, path: str) -> None:
        """Write the model to a new folder.

        Parameters
        ----------
        path : str
            Folder or URI that does not exist yet.

        Raises
        ------
        ModelError
            Something is there, or the model was loaded from there, or from a folder in or around it.
        """
        self.write().save(path)

    @classmethod
    def read(cls) -> MLReader[Any]:
        """A reader."""
        return _FramesReader(cls)

    @classmethod
    def load(cls, path: str) -> Self:
        """The model that was saved at ``path``.

        Parameters
        ----------
        path : str
            Folder or URI.

        Raises
        ------
        ModelError
            Nothing is there, a part is missing or damaged, or it is another class's model.
        """
        return cls.read().load(path)


class _FramesWriter(MLWriter):
    def __init__(self, instance: Any) -> None:
        super().__init__()
        self.instance = instance

    def save(self, path: str) -> None:
        """Write to ``path``.

        Raises
        ------
        ModelError
            Something is there already, or the model reads its frames from there, from a folder in it, or from
            one around it.
        """
        target, source = _Place.of(self.sparkSession, path), self.instance._read_from
        if source is not None:
            read_from = _Place.of(self.sparkSession, source)
            overlap = target.uri == read_from.uri or target.contains(read_from) or read_from.contains(target)
            if overlap and read_from.exists:  # a pipeline that is saved over itself has removed it already
                raise ModelError(
                    f"{path}: the model was loaded from {source} and still reads it: save it somewhere else"
                )
        if target.exists and not self.shouldOverwrite:
            raise ModelError(f"{path}: exists already: write().overwrite().save(path) replaces it")
        super().save(path)

    def saveImpl(self, path: str) -> None:
        spark = self.sparkSession
        # metadata last: a folder with metadata is whole
        for name, frame in self.instance.frames().items():
            frame.write.parquet(f"{path}/{name}")
        members = self.instance.member_models()
        for name, member in members.items():
            member.write().save(member_path(path, name))
        kinds = {name: f"{type(one).__module__}.{type(one).__name__}" for name, one in members.items()}
        extra = {_FITTED: self.instance.fitted_values(), _MEMBERS: kinds}
        DefaultParamsWriter.saveMetadata(self.instance, path, spark, extraMetadata=extra)


@dataclass(frozen=True)
class _Place:
    """A folder in some file system: where it really is, and whether something is there."""

    uri: str
    exists: bool

    @classmethod
    def of(cls, spark: SparkSession, path: str) -> _Place:
        jvm: Any = spark._jvm
        written = jvm.org.apache.hadoop.fs.Path(path)
        system = written.getFileSystem(spark._jsparkSession.sessionState().newHadoopConf())
        uri = system.makeQualified(written).toUri()
        if uri.getScheme() == "file":
            return cls(f"file:{os.path.realpath(uri.getPath())}", bool(system.exists(written)))
        return cls(uri.toString().rstrip("/"), bool(system.exists(written)))

    def contains(self, other: _Place) -> bool:
        """Whether ``other`` is in this folder."""
        return other.uri.startswith(self.uri.rstrip("/") + "/")


class ParamsReader(DefaultParamsReader[Any]):
    """Reads an estimator's Params.

    Parameters
    ----------
    kind : type
        Its class.
    """

    def __init__(self, kind: type[Any]) -> None:
        super().__init__(kind)
        self.kind = kind

    def load(self, path: str) -> Any:
        """The estimator that was saved at ``path``; of the classes that it stands for too.

        Parameters
        ----------
        path : str
            Folder or URI.

        Raises
        ------
        ModelError
            Nothing is there, it is damaged, or another class's.
        """
        expected = f"{self.kind.__module__}.{self.kind.__name__}"
        with _complete(path, expected):
            metadata = DefaultParamsReader.loadMetadata(path, SparkSession.active())
            if metadata["class"] not in (expected, *self.kind.stands_for):
                raise ModelError(f"{path}: holds a {metadata['class']}, not a {expected}")
            estimator = self.kind()
            estimator._resetUid(metadata["uid"])
            DefaultParamsReader.getAndSetParams(estimator, metadata)
        return estimator


@contextmanager
def _complete(path: str, expected: str) -> Iterator[None]:
    """Turn what damaged files cause into ``ModelError``."""
    try:
        yield
    except (
        PySparkException,
        Py4JJavaError,
        AssertionError,
        AttributeError,
        KeyError,
        TypeError,
        ValueError,
        OSError,
        IndexError,
    ) as error:
        lines = str(error).strip().splitlines() or [type(error).__name__]
        raise ModelError(f"{path}: is not a complete {expected}: {lines[0]}") from None


def restored(kind: type[Any], metadata: dict[str, Any], frames: dict[str, Any]) -> Any:
    """A model with the Params and the fitted values that were saved.

    Parameters
    ----------
    kind : type
        Class of the model.
    metadata : dict
        What its folder ``metadata`` holds.
    frames : dict
        Name of a frame → DataFrame, or None where none is needed.
    """
    model = kind.from_frames(frames)
    model._resetUid(metadata["uid"])
    DefaultParamsReader.getAndSetParams(model, metadata)
    for name in model.fitted_values():
        setattr(model, name, metadata[_FITTED][name])
    return model


def member_path(path: str, name: str) -> str:
    """Folder of a model that a saved model is made of.

    Parameters
    ----------
    path : str
        Folder of the model.
    name : str
        Name of the member.
    """
    return f"{path}/{_MEMBERS}/{name}"


def _class(name: str) -> Any:
    """A class by its module and name."""
    module, _, own = name.rpartition(".")
    return getattr(import_module(module), own)


class _FramesReader(MLReader[Any]):
    def __init__(self, kind: type[Any]) -> None:
        super().__init__()
        self.kind = kind

    def load(self, path: str) -> Any:
        spark = SparkSession.active()
        expected = f"{self.kind.__module__}.{self.kind.__name__}"
        with _complete(path, expected):
            metadata = DefaultParamsReader.loadMetadata(path, spark)
            if metadata["class"] != expected:
                raise ModelError(f"{path}: holds a {metadata['class']}, not a {expected}")
            frames = {name: spark.read.parquet(f"{path}/{name}") for name in self.kind.frame_names()}
            if _STAGE.search(path):
                # a pipeline that is saved over itself removes its folder before it writes its stages
                for frame in frames.values():
                    Stored(frame.persist()).hold(frame).count()
            model = restored(self.kind, metadata, frames)
            members = metadata.get(_MEMBERS, {}).items()
            model.take_members({name: _class(kind).load(member_path(path, name)) for name, kind in members})
            model._read_from = path
        return model
