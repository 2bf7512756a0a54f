"""spark-submit jobs/gate.py --config conf/cluster.yaml --run-date 2026-01-31"""

import sys

from recsys_spark.cli import main

main(["gate", *sys.argv[1:]])
