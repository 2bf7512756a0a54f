"""Fitted models on disk: Spark ML's JSON metadata, and a Parquet folder for each frame the model consists
of.
"""

from __future__ import annotations

import posixpath
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

_FITTED = "fittedValues"
"""Key of the metadata that holds them."""


class FramesModel(MLWritable, MLReadable[Any]):
    """Mixin of models that are Params, some frames and fitted values: ``write``, ``save``, ``read`` and
    ``load``.

    A subclass defines :meth:`frames`, :meth:`frame_names` and :meth:`from_frames`, and where it has any
    :meth:`fitted_values`.
    """

    _read_from: str | None = None

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
            The model was loaded from ``path`` and reads its frames from there.
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
            The model reads its frames from there.
        """
        if self.instance._read_from is not None and posixpath.normpath(path) == posixpath.normpath(
            self.instance._read_from
        ):
            raise ModelError(
                f"{path}: the model was loaded from this folder and still reads it: save it somewhere else"
            )
        super().save(path)

    def saveImpl(self, path: str) -> None:
        spark = self.sparkSession
        # metadata last: a folder with metadata is whole
        for name, frame in self.instance.frames().items():
            frame.write.parquet(f"{path}/{name}")
        extra = {_FITTED: self.instance.fitted_values()}
        DefaultParamsWriter.saveMetadata(self.instance, path, spark, extraMetadata=extra)


class _FramesReader(MLReader[Any]):
    def __init__(self, kind: type[Any]) -> None:
        super().__init__()
        self.kind = kind

    def load(self, path: str) -> Any:
        spark = SparkSession.active()
        expected = f"{self.kind.__module__}.{self.kind.__name__}"
        try:
            metadata = DefaultParamsReader.loadMetadata(path, spark)
            if metadata["class"] != expected:
                raise ModelError(f"{path}: holds a {metadata['class']}, not a {expected}")
            frames = {name: spark.read.parquet(f"{path}/{name}") for name in self.kind.frame_names()}
            model = self.kind.from_frames(frames)
            model._resetUid(metadata["uid"])
            DefaultParamsReader.getAndSetParams(model, metadata)
            for name in model.fitted_values():
                setattr(model, name, metadata[_FITTED][name])
            model._read_from = path
        except (
            PySparkException,
            Py4JJavaError,
            AssertionError,
            AttributeError,
            KeyError,
            ValueError,
            OSError,
            IndexError,
        ) as error:
            lines = str(error).strip().splitlines() or [type(error).__name__]
            raise ModelError(f"{path}: is not a complete {expected}: {lines[0]}") from None
        return model
