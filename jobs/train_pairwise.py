"""spark-submit jobs/train_pairwise.py --config conf/cluster.yaml --run-date 2026-01-31

Trains this model alone; the night's others may be trained apart.
"""

import sys

from recsys_spark.cli import main

main(["train", *sys.argv[1:], "--models", "pairwise"])
