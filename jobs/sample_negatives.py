"""spark-submit jobs/sample_negatives.py --config conf/cluster.yaml --run-date 2026-01-31"""

import sys

from recsys_spark.cli import main

main(["sample-negatives", *sys.argv[1:]])
