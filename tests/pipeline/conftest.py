"""One shop for each test."""

from __future__ import annotations

import pytest

from tests.pipeline.shop import Shop


@pytest.fixture
def shop(spark, tmp_path):
    return Shop(spark, tmp_path)
