"""What a local session sets for itself."""

from __future__ import annotations

from recsys_spark.config import Session
from recsys_spark.session import FEW_CORES, local_settings

OPTIONS = "spark.driver.extraJavaOptions"


def test_java_of_few_cores_has_no_threads_that_collect_garbage(spark):
    """The suite's session has two cores."""
    beans = spark._jvm.java.lang.management.ManagementFactory.getGarbageCollectorMXBeans()
    assert {bean.getName() for bean in beans} == {"Copy", "MarkSweepCompact"}  # those of the serial collector


def test_java_of_many_cores_and_options_of_ones_own_are_left_alone():
    assert OPTIONS not in local_settings(Session(cores=FEW_CORES + 1))
    own = {OPTIONS: "-Dlog=all"}
    assert local_settings(Session(cores=FEW_CORES, spark=own))[OPTIONS] == "-Dlog=all"
