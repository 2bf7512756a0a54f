"""A whole night on MovieLens 100K with all that decides what people see, by ``conf/second_stage.yaml``:
seconds of each step, and how the models' lists did.

Needs ``RECSYS_DATA_DIR``.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import yaml

from recsys_spark.lakehouse.reader import DeltaReader
from recsys_spark.schema import EVERYONE
from tests.benchmarks.night import measured
from tests.benchmarks.report import publish

CONFIG = Path(__file__).parents[2] / "conf" / "second_stage.yaml"


def main() -> None:
    """Measure and publish."""
    tree = yaml.safe_load(CONFIG.read_text(encoding="utf-8"))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        tree["lake"]["root"] = str(folder / "lake")
        tree["ingest"]["source"]["path"] = str(Path(os.environ["RECSYS_DATA_DIR"]) / "ml-100k.zip")
        file = folder / "night.yaml"
        file.write_text(yaml.safe_dump(tree), encoding="utf-8")
        taken = measured(file, None)
        asked = {"metric": ["ndcg"], "k": [10], "segment": [EVERYONE]}
        reader = DeltaReader(tree["lake"]["root"])
        metrics = reader.rows("metrics", ["part", "model", "value"], asked).to_pylist()
    rows = [{"what": what, "s, or GiB": value} for what, value in taken.items()]
    notes = [f"{row['model']}: NDCG@10 {row['value']:.4f} on {row['part']}" for row in metrics]
    publish("second_stage", "A night on MovieLens 100K with all stages", rows, notes)


if __name__ == "__main__":
    main()
