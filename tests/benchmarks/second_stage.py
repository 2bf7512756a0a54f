"""A whole night on MovieLens 100K with all that decides what people see, by ``conf/second_stage.yaml``, with
recalled items and complaints of users beside it: seconds of each step, and how the models' lists did. Then
what came of the lists in the last week of the ratings, which the night had not seen, and a search of Params.

Needs ``RECSYS_DATA_DIR``.
"""

from __future__ import annotations

import os
import tempfile
import zipfile
from datetime import UTC, date, datetime, time
from pathlib import Path

import yaml

from recsys_spark.lakehouse.reader import DeltaReader
from recsys_spark.schema import EVERYONE
from tests.benchmarks.night import measured
from tests.benchmarks.report import publish, recsys, seconds

CONFIG = Path(__file__).parents[2] / "conf" / "second_stage.yaml"
NIGHT, WEEK_AFTER = date(1998, 4, 15), date(1998, 4, 22)
RATINGS = "ml-100k/u.data"


def known_by(day: date, archive: Path, copy: Path) -> None:
    """Copy the archive without what was rated later than a day."""
    end = datetime.combine(day, time.max, UTC).timestamp()
    with zipfile.ZipFile(archive) as given, zipfile.ZipFile(copy, "w") as kept:
        for name in given.namelist():
            content = given.read(name)
            if name == RATINGS:
                lines = content.splitlines(keepends=True)
                content = b"".join(line for line in lines if int(line.split(b"\t")[3]) <= end)
            kept.writestr(name, content)


def configured(folder: Path, source: Path) -> Path:
    """The configuration, with two tables of what is denied."""
    (folder / "recalled.csv").write_text("item\n50\n181\n", encoding="utf-8")
    (folder / "complaints.csv").write_text("user,item\n1,100\n13,258\n", encoding="utf-8")
    tree = yaml.safe_load(CONFIG.read_text(encoding="utf-8"))
    tree["lake"]["root"] = str(folder / "lake")
    tree["ingest"]["source"]["path"] = str(source)
    denied = [{"path": str(folder / "recalled.csv"), "item": "item"}]
    denied.append({"path": str(folder / "complaints.csv"), "user": "user", "item": "item"})
    tree["recommend"]["items"]["deny"] = denied
    file = folder / "night.yaml"
    file.write_text(yaml.safe_dump(tree), encoding="utf-8")
    return file


def main() -> None:
    """Measure and publish."""
    archive = Path(os.environ["RECSYS_DATA_DIR"]) / "ml-100k.zip"
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        known_by(NIGHT, archive, folder / "known.zip")
        file = configured(folder, folder / "known.zip")
        taken = measured(file, None, str(NIGHT))
        configured(folder, archive)
        asked = ["--config", str(file), "--run-date"]
        taken["ingest, a week later"] = seconds(lambda: recsys("ingest", *asked, str(WEEK_AFTER)))
        taken["feedback"] = seconds(lambda: recsys("feedback", *asked, str(NIGHT)))
        taken["tune, four trials"] = seconds(lambda: recsys("tune", *asked, str(NIGHT)))
        reader = DeltaReader(str(folder / "lake"))
        columns = ["part", "model", "metric", "k", "segment", "value", "low", "high", "users"]
        metrics = reader.rows("metrics", columns, {"segment": [EVERYONE]}).to_pylist()
    rows = [{"what": what, "s, or GiB": value} for what, value in taken.items()]
    quality = [
        row for row in metrics if row["part"] != "served" and (row["metric"], row["k"]) == ("ndcg", 10)
    ]
    notes = [f"{row['model']}: NDCG@10 {row['value']:.4f} on {row['part']}" for row in quality]
    notes += [
        f"{row['model']}: {row['metric']} {row['value']:.4f} ({row['low']:.4f} to {row['high']:.4f}) of what "
        f"{row['users']} users took in the week after"
        for row in metrics
        if row["part"] == "served"
    ]
    publish("second_stage", "A night on MovieLens 100K with all stages", rows, notes)


if __name__ == "__main__":
    main()
