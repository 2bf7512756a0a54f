"""A step between the split and the training, where the configuration asks for it: negatives of the
training part, as a table.
"""

from __future__ import annotations

from pyspark.sql import functions as F

from recsys_spark.config import config_problem
from recsys_spark.console import progress_line
from recsys_spark.errors import ConfigError
from recsys_spark.pipeline.night import Night
from recsys_spark.sampling import LABEL, LOG_Q, SHORTFALL, NegativeSampler
from recsys_spark.schema import ITEM, TRAIN, USER

POSITIVE = "positive"


def sample_negatives(night: Night) -> None:
    """Draw negatives for the training part: reads ratings, writes this date's partition of negatives.

    Other items each night, the same for the same date and seed.

    Parameters
    ----------
    night : Night
        The run: session, tables, ledger and pinned data.

    Raises
    ------
    ConfigError
        The configuration has no section ``negatives``.
    LakeError
        The split has not been done for this date.
    """
    settings = night.config.negatives
    if settings is None:
        allowed = "a section with strategy, ratio and popularity_exponent, for this step"
        raise ConfigError(config_problem(night.config.origin, "negatives", "nothing", allowed))
    with night.step("sample_negatives") as record:
        record.versions_read["ratings"] = night.ratings_version()
        # held-out items may be drawn: negatives without them would give the answers away
        positives = night.rated(TRAIN).rows(USER, ITEM).select(USER, ITEM, F.col(ITEM).alias(POSITIVE))
        sampler = NegativeSampler(
            strategy=settings.strategy,
            ratio=settings.ratio,
            popularityExponent=settings.popularity_exponent,
            epoch=night.run_date.toordinal(),
            seed=night.config.seed,
        )
        rows = sampler.transform(positives).persist()
        try:
            counted = (
                rows.groupBy(LABEL)
                .agg(F.count("*").alias("rows"), F.sum(SHORTFALL).alias("shortfall"))
                .collect()
            )
            record.counts |= {("negatives", "positives")[row[LABEL]]: row["rows"] for row in counted}
            record.counts["shortfall"] = sum(row["shortfall"] for row in counted)
            night.lake.create("negatives", *night.config.ingest.id_types)
            written = rows.where(F.col(LABEL) == 0).withColumn("run_date", F.lit(night.run_date))
            written = written.select("run_date", USER, POSITIVE, ITEM, LOG_Q)
            where = f"run_date = '{night.run_date}'"
            record.versions_written["negatives"] = night.lake.replace(
                "negatives", written, where, record.counts["negatives"]
            )
        finally:
            rows.unpersist()
        progress_line(
            f"  {record.counts['negatives']:,} negatives of {record.counts['positives']:,} positives"
        )
