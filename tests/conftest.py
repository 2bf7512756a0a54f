# ruff: noqa: E402
"""One Spark session for the whole suite; tests that need no JVM never start it."""

from __future__ import annotations

import os
import shutil

# before numpy is imported: a group of tasks on threads, each with a BLAS of several, would be slower
for _name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[_name] = "1"

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Page
from pyspark.sql import SparkSession

from recsys_spark import console
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


@pytest.fixture(scope="session")
def browser_type_launch_args(browser_type_launch_args: dict[str, Any]) -> dict[str, Any]:
    """Chromium as it is on this machine; pytest-playwright starts it."""
    for name in ("chromium", "chromium-browser", "google-chrome"):
        path = shutil.which(name)
        if path is not None:
            return {**browser_type_launch_args, "executable_path": path, "args": ["--no-sandbox"]}
    pytest.skip("there is no Chromium to open pages with")


@pytest.fixture
def opened(browser: Browser) -> Iterator[Callable[..., tuple[Page, list[str]]]]:
    """Open a page as a person does: a function that returns it, drawn, and what went wrong on it so far."""
    contexts = []

    def open_page(path: Path, width: int = 1000, theme: str = "light") -> tuple[Page, list[str]]:
        size: Any = {"width": width, "height": 900}
        context = browser.new_context(viewport=size, color_scheme=theme)  # type: ignore[arg-type]
        contexts.append(context)
        page, problems = context.new_page(), list[str]()
        page.on("console", lambda said: problems.append(said.text) if said.type == "error" else None)
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.on(
            "request", lambda asked: None if asked.url.startswith("file:") else problems.append(asked.url)
        )
        page.goto(path.as_uri())
        page.wait_for_selector("body[data-drawn]")
        return page, problems

    yield open_page
    for context in contexts:
        context.close()


def pytest_make_parametrize_id(val: object, argname: str) -> str | None:
    """Bytes are no name of a test: compressed ones hold the time, and processes must agree on the names."""
    return argname if isinstance(val, bytes) else None


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the tests that use the session."""
    for item in items:
        if "spark" in getattr(item, "fixturenames", ()):
            item.add_marker("spark")


@pytest.fixture(scope="session")
def settings(spark: SparkSession) -> dict[str, str]:
    """The session's settings as it began."""
    return dict(spark.conf.getAll)


@pytest.fixture(autouse=True)
def spark_as_it_was(request: pytest.FixtureRequest) -> Iterator[None]:
    """After a test with the session its views, settings and databases are those that it began with."""
    if "spark" not in request.fixturenames:
        yield
        return
    session: SparkSession = request.getfixturevalue("spark")
    settings, before = request.getfixturevalue("settings"), _state(session)
    yield
    if _state(session) == before:
        return
    for table in session.catalog.listTables():
        if table.isTemporary:
            session.catalog.dropTempView(table.name)
    for name in session.conf.getAll.keys() - settings.keys():
        session.conf.unset(name)
    for name, value in settings.items():
        if session.conf.get(name) != value:
            session.conf.set(name, value)
    for database in {database.name for database in session.catalog.listDatabases()} - {"default"}:
        session.sql(f"DROP DATABASE `{database}` CASCADE")


def _state(session: SparkSession) -> tuple[int, str, str]:
    """Settings, databases and temporary views, asked of Java: queries would take half a second a test."""
    state = session._jsparkSession.sessionState()
    views = state.catalog().listLocalTempViews("*").mkString(",")
    return state.conf().settings().hashCode(), state.catalog().listDatabases().mkString(","), views


@pytest.fixture(autouse=True)
def console_as_it_was() -> Iterator[None]:
    """After a test progress is shown again, where a command was asked to be quiet."""
    yield
    console.configure()


@pytest.fixture(autouse=True, scope="module")
def no_frame_stays_in_storage(request: pytest.FixtureRequest) -> Iterator[None]:
    """After a module nothing is cached; its own fixtures may keep a fitted model until then."""
    yield
    session = SparkSession.getActiveSession()
    if session is not None:
        session.catalog.clearCache()
