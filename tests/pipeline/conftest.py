"""One shop for each test."""

from __future__ import annotations

import pytest

from tests.pipeline.shop import Shop


@pytest.fixture(autouse=True, scope="package")
def nothing_is_compiled(spark):
    """Queries of a few rows cost more to compile than to interpret; the results are the same."""
    spark.conf.set("spark.sql.codegen.wholeStage", "false")
    spark.conf.set("spark.sql.codegen.factoryMode", "NO_CODEGEN")
    yield
    spark.conf.unset("spark.sql.codegen.wholeStage")
    spark.conf.unset("spark.sql.codegen.factoryMode")


@pytest.fixture
def shop(spark, tmp_path):
    return Shop(spark, tmp_path)
