"""One Spark session for the whole suite; tests that need no JVM never start it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from pyspark.sql import SparkSession

from recsys_spark.config import Session
from recsys_spark.session import get_session


@pytest.fixture(scope="session")
def spark(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SparkSession]:
    """The session of the package's own builder, small: two cores, two shuffle partitions."""
    warehouse = tmp_path_factory.mktemp("warehouse")
    settings = {
        "spark.sql.warehouse.dir": str(warehouse),
        "spark.sql.catalogImplementation": "in-memory",
        "spark.sql.shuffle.partitions": "2",
    }
    session = get_session(Session(cores=2, memory="2g", spark=settings), "tests")
    yield session
    session.stop()


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """Folder of the real data sets, which are not part of the repository."""
    folder = os.environ.get("RECSYS_DATA_DIR")
    if not folder:
        pytest.skip("RECSYS_DATA_DIR is not set: real data is not at hand")
    return Path(folder)
