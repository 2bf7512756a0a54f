"""Configuration: YAML files read into closed models, with overrides, and errors that say where.

A value comes, in rising order of precedence, from the defaults, the YAML file, environment variables and
``--set``: ``RECSYS__SPLIT__ROWS_PER_USER=2`` and ``--set split.rows_per_user=2`` set ``split.rows_per_user``,
``RECSYS__ALS__REG_PARAM=0.1`` sets ``als.regParam``. Values of overrides are read as YAML.
"""

from recsys_spark.config.ingest import (
    Columns,
    Delimited,
    Events,
    FileSource,
    Ingest,
    MovieLensSource,
    SideTable,
    SyntheticSource,
)
from recsys_spark.config.loading import config_problem, load_config
from recsys_spark.config.rules import ItemRules, Listed, UserRules
from recsys_spark.config.sections import BlockSizes, Config, Lake, Report, Retention, Session, Split
from recsys_spark.config.tuning import Range, Tune

__all__ = [
    "BlockSizes",
    "Columns",
    "Config",
    "Delimited",
    "Events",
    "FileSource",
    "Ingest",
    "ItemRules",
    "Lake",
    "Listed",
    "MovieLensSource",
    "Range",
    "Report",
    "Retention",
    "Session",
    "SideTable",
    "Split",
    "SyntheticSource",
    "Tune",
    "UserRules",
    "config_problem",
    "load_config",
]
