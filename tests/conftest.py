# ruff: noqa: E402
"""One Spark session for the whole suite; tests that need no JVM never start it."""

from __future__ import annotations

import os

# before numpy is imported: a group of tasks on threads, each with a BLAS of several, would be slower
for _name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[_name] = "1"

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


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the tests that use the session."""
    for item in items:
        if "spark" in getattr(item, "fixturenames", ()):
            item.add_marker("spark")


@pytest.fixture(autouse=True)
def spark_as_it_was(request: pytest.FixtureRequest) -> Iterator[None]:
    """After a test with the session its temporary views, settings and databases are what they were before."""
    if "spark" not in request.fixturenames:
        yield
        return
    session: SparkSession = request.getfixturevalue("spark")
    settings, databases = session.conf.getAll, {database.name for database in session.catalog.listDatabases()}
    yield
    for table in session.catalog.listTables():
        if table.isTemporary:
            session.catalog.dropTempView(table.name)
    for name in session.conf.getAll.keys() - settings.keys():
        session.conf.unset(name)
    for name, value in settings.items():
        if session.conf.get(name) != value:
            session.conf.set(name, value)
    for database in {database.name for database in session.catalog.listDatabases()} - databases:
        session.sql(f"DROP DATABASE `{database}` CASCADE")


@pytest.fixture(autouse=True, scope="module")
def no_frame_stays_in_storage(request: pytest.FixtureRequest) -> Iterator[None]:
    """After a module nothing is cached; its own fixtures may keep a fitted model until then."""
    yield
    session = SparkSession.getActiveSession()
    if session is not None:
        session.catalog.clearCache()
