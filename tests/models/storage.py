"""What Spark keeps of a model."""

from __future__ import annotations

import gc
import threading


def stored_frames(spark):
    """The frames in Spark's storage, when what has gone out of use has been released.

    Compare sets, never their sizes: Spark frees the frames of earlier tests whenever it finds them unused.
    """
    gc.collect()
    for thread in threading.enumerate():
        if "_unpersist" in thread.name:
            thread.join(10)
    return {info.id() for info in spark.sparkContext._jsc.sc().getRDDStorageInfo()}
