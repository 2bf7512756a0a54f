"""A small shop: a lake, an inbox, and nights over them."""

from __future__ import annotations

import shutil
from datetime import UTC, date, datetime

import yaml

from recsys_spark.config import load_config
from recsys_spark.lakehouse.reader import DeltaReader
from recsys_spark.models.registry import REGISTRY
from recsys_spark.pipeline.ingest import ingest
from recsys_spark.pipeline.night import Night
from recsys_spark.pipeline.show_runs import describe_current

DAY, NEXT = date(2024, 6, 30), date(2024, 7, 1)
COLUMNS = {"user": "u", "item": "i", "rating": "r", "timestamp": "t"}
TITLES = ["Heat", "<script>document.title='gone'</script>", "Ran", "Ikiru", "Stalker", "M", "Alien", "Brazil"]
PARTS = ("inserted", "updated", "duplicates", "unchanged", "rejected", "later")


class Shop:
    """A lake and an inbox, and nights over them."""

    def __init__(self, spark, folder):
        self.spark, self.folder = spark, folder
        (folder / "in").mkdir()
        self.header = "u,i,r,t"
        self.file = folder / "in" / "ratings.csv"
        self.tree = {
            "lake": {"root": str(folder / "lake")},
            "ingest": {
                "source": {"format": "csv", "path": str(folder / "in"), "columns": COLUMNS},
                "scale": [1, 5],
                "max_rejected_fraction": 0.5,
            },
            "split": {"method": "leave_last"},
            "models": ["popularity", "als"],
            "als": {"rank": 4, "maxIter": 3, "implicitPrefs": True},
            "evaluate": {"cutoffs": [3], "champion_metric": "ndcg@3", "bootstrap": 20},
            "recommend": {"n": 4, "similar_items": None},
            "report": None,
        }

    def copied(self, folder):
        """Another shop in ``folder`` whose lake is a copy of this one's."""
        shutil.copytree(self.folder / "lake", folder / "lake")
        other = Shop(self.spark, folder)
        other.tree = {**self.tree, "lake": other.tree["lake"], "ingest": other.tree["ingest"]}
        return other

    def receive(self, *lines):
        self.file.write_text("\n".join([self.header, *lines]) + "\n", encoding="utf-8")

    def night(self, day=DAY, **changes):
        path = self.folder / "conf.yaml"
        path.write_text(yaml.safe_dump({**self.tree, **changes}), encoding="utf-8")
        return Night(self.spark, load_config(path, REGISTRY, environment={}), day)

    def ingested(self, *lines, day=DAY):
        self.receive(*lines)
        night = self.night(day)
        ingest(night)
        counts = night.ledger.last_done("ingest")["counts"]
        assert counts["read"] == len(lines) == sum(counts[part] for part in PARTS)
        return {part: counts[part] for part in PARTS if counts[part]}

    def reader(self):
        return DeltaReader(str(self.folder / "lake"))

    def served(self):
        """What ``recsys current`` says, of now."""
        (section,) = describe_current(self.reader(), datetime.now(UTC))
        (row,) = section.rows
        return row

    def rows(self, table, *columns):
        return sorted(tuple(row) for row in self.night().lake.read(table).select(*columns).collect())
