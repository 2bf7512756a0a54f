"""The command ``recsys``. Exit codes: 0 done, 1 failed, 2 wrong usage or configuration."""

from __future__ import annotations

import sys
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Annotated

import typer
from py4j.protocol import Py4JError
from pyspark.errors import PySparkException

from recsys_spark import doctor as doctor_module
from recsys_spark.config import Config, load_config
from recsys_spark.console import err, out, table
from recsys_spark.data.download import MIRROR, RELEASES, download
from recsys_spark.data.synthetic import synthetic_inputs, world_of
from recsys_spark.errors import ConfigError, RecsysError, summary
from recsys_spark.lakehouse.tables import Lakehouse
from recsys_spark.models.registry import REGISTRY
from recsys_spark.pipeline.night import Night, check_models
from recsys_spark.pipeline.show import sample_users, show_metrics, show_runs, show_user
from recsys_spark.pipeline.steps import STEPS, run_night, steps_of
from recsys_spark.schema import SEEDED
from recsys_spark.session import get_session, spark_log

app = typer.Typer(
    help="Nightly recommendations on Spark and Delta Lake.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
datasets = typer.Typer(help="Published and synthetic data sets.", no_args_is_help=True)
app.add_typer(datasets, name="datasets")


def _day(text: str) -> date:
    try:
        day = date.fromisoformat(text)
    except ValueError:
        raise typer.BadParameter(f"{text!r} is not a day such as 2026-01-31") from None
    if not 1970 <= day.year <= 9998:
        raise typer.BadParameter(f"{text!r} is no night between 1970 and 9998")
    return day


ConfigFile = Annotated[Path, typer.Option("--config", "-c", help="YAML file; see conf/.")]
RunDate = Annotated[
    date, typer.Option("--run-date", "-d", parser=_day, metavar="DAY", help="The night, as 2026-01-31.")
]
AnyDate = Annotated[
    date | None, typer.Option("--run-date", "-d", parser=_day, metavar="DAY", help="Only this night.")
]
Overrides = Annotated[
    list[str] | None, typer.Option("--set", "-s", metavar="KEY=VALUE", help="Override, as als.rank=64.")
]


def main(arguments: list[str] | None = None) -> None:
    """Run the command line and exit with its code."""
    try:
        app(args=arguments, prog_name="recsys")
    except SystemExit as done:
        log = spark_log()
        if not done.code and log is not None:
            log.unlink(missing_ok=True)
        raise
    except ConfigError as error:
        _fail(str(error), 2)
    except RecsysError as error:
        _fail(str(error), 1)
    except (PySparkException, Py4JError) as error:
        said = f" (Spark's log: {spark_log()})" if spark_log() else ""
        _fail(f"Spark: {summary(error)}{said}", 1)


@app.command()
def nightly(
    config: ConfigFile,
    run_date: RunDate,
    overrides: Overrides = None,
    show: Annotated[int, typer.Option(min=0, help="Print the lists of this many users.")] = 0,
) -> None:
    """A whole night: ingest, split, negatives where configured, train, evaluate, recommend, publish."""
    night = _night(config, run_date, overrides)
    run_night(night)
    show_runs(night.lake, run_date, len(steps_of(night.config)))
    show_metrics(night.lake, night.run_id, int(night.config.evaluate.champion_metric.split("@")[1]))
    for user in sample_users(night.lake, show, run_date):
        show_user(night.lake, user, run_date)


def _step_command(name: str) -> Callable[..., None]:
    def command(config: ConfigFile, run_date: RunDate, overrides: Overrides = None) -> None:
        STEPS[name](_night(config, run_date, overrides))

    command.__doc__ = f"The step {name} alone."
    return command


for _name in STEPS:
    app.command(_name)(_step_command(_name))


@app.command()
def show(
    config: ConfigFile,
    user: Annotated[list[str], typer.Option(help="A user's id; may be given several times.")],
    run_date: AnyDate = None,
    overrides: Overrides = None,
) -> None:
    """A user's history and published list, with titles."""
    lake = _lake(_load(config, overrides))
    for one in user:
        show_user(lake, one, run_date)


@app.command()
def runs(config: ConfigFile, run_date: AnyDate = None, overrides: Overrides = None) -> None:
    """The ledger: every step of every run."""
    show_runs(_lake(_load(config, overrides)), run_date)


@app.command()
def doctor(
    config: Annotated[Path | None, typer.Option("--config", "-c", help="Also look at its lake.")] = None,
) -> None:
    """Check Java, Spark, Delta, Python, threads, write access and memory."""
    checks = doctor_module.examine(_load(config, None).lake if config else None)
    rows = [{"check": c.check, "found": c.found, "": "ok" if c.ok else c.advice} for c in checks]
    table("recsys doctor", rows, ["check", "found", ""])
    if not all(check.ok for check in checks):
        raise typer.Exit(1)


@datasets.command("download")
def datasets_download(
    name: Annotated[str, typer.Argument(help=", ".join(RELEASES))],
    to: Annotated[Path, typer.Option(help="Folder for the zip and its content.")] = Path("data"),
    mirror: Annotated[str, typer.Option(help="Address that holds the zips.")] = MIRROR,
) -> None:
    """Fetch a MovieLens release, check and unpack it."""
    if name not in RELEASES:
        raise typer.BadParameter(f"{name!r} is not one of {', '.join(RELEASES)}")
    out.print(str(download(name, to, mirror)), markup=False, soft_wrap=True)


@datasets.command("synthesize")
def datasets_synthesize(
    to: Annotated[str, typer.Option(help="Folder or URI for ratings, users and items, as Parquet.")],
    ratings: Annotated[int, typer.Option(min=1_000, max=1_000_000_000, help="About how many.")] = 100_000,
    seed: Annotated[int, typer.Option(min=0)] = SEEDED,
) -> None:
    """Make a data set of any size with latent tastes, genres and a power-law catalogue."""
    spark = get_session()
    inputs = synthetic_inputs(spark, world_of(ratings, seed))
    for name, frame in (("ratings", inputs.ratings), ("users", inputs.users), ("items", inputs.items)):
        if frame is not None:
            frame.drop("fault", "raw", "source_file").write.mode("error").parquet(f"{to}/{name}")
    out.print(to, markup=False, soft_wrap=True)


def _load(config: Path, overrides: list[str] | None) -> Config:
    return load_config(config, REGISTRY, overrides or ())


def _night(config: Path, run_date: date, overrides: list[str] | None) -> Night:
    loaded = _load(config, overrides)
    check_models(loaded)  # before Spark starts
    return Night(get_session(loaded.session), loaded, run_date)


def _lake(config: Config) -> Lakehouse:
    return Lakehouse(get_session(config.session), config.lake)


def _fail(message: str, code: int) -> None:
    err.print(f"recsys: {message}", markup=False, style="red", soft_wrap=True)
    sys.exit(code)
