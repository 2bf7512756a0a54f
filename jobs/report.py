"""spark-submit jobs/report.py --config conf/cluster.yaml --run-date 2026-01-31"""

import sys

from recsys_spark.cli import main

main(["report", *sys.argv[1:]])
