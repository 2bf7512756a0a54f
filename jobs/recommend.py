"""spark-submit jobs/recommend.py --config conf/cluster.yaml --run-date 2026-01-31"""

import sys

from recsys_spark.cli import main

main(["recommend", *sys.argv[1:]])
