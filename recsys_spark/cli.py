"""The command ``recsys``. Exit codes: 0 done, 1 failed, 2 wrong usage or configuration, 3 not served.

Spark and the models are imported by the commands that need them, so that help and errors of usage are
immediate.
"""

from __future__ import annotations

import ast
import logging
import sys
import time
import traceback
from collections.abc import Callable
from contextlib import nullcontext
from datetime import UTC, date, datetime
from enum import StrEnum
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from recsys_spark import __version__
from recsys_spark.console import answer, configure, duration, error_line, result_line, table, working
from recsys_spark.errors import NO_ANSWER, ConfigError, GateError, RecsysError, UnknownIdError, summary
from recsys_spark.pipeline import STEP_NAMES
from recsys_spark.schema import SEEDED

if TYPE_CHECKING:
    from recsys_spark.config import Config
    from recsys_spark.lakehouse.reader import Reader
    from recsys_spark.pipeline.night import Night

SHOWN_USERS = 3

_COMMANDS = [name.replace("_", "-") for name in STEP_NAMES]

app = typer.Typer(
    help="Nightly recommendations on Spark and Delta Lake.",
    no_args_is_help=True,
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
        raise typer.BadParameter(f"{text!r} is not between 1970 and 9998")
    return day


def _step_name(text: str) -> str:
    if text not in _COMMANDS:
        raise typer.BadParameter(f"{text!r} is not one of {', '.join(_COMMANDS)}")
    return text.replace("-", "_")


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
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object, for programs.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Do not print progress.")]
LogFile = Annotated[
    Path | None, typer.Option("--log-file", help="Append progress and errors to this file, with times.")
]
Models = Annotated[
    list[str] | None,
    typer.Option("--models", "-m", metavar="NAME", help="Train only this model; may be given several times."),
]


class Measure(StrEnum):
    """By what items are alike."""

    COSINE = "cosine"
    DOT = "dot"
    TEMPERED = "tempered"


def main(arguments: list[str] | None = None) -> None:
    """Run the command line and exit with its code."""
    # What py4j logs of a dead JVM, partly by the root logger, is in the error too.
    logging.getLogger("py4j").setLevel(logging.CRITICAL)
    logging.getLogger().addFilter(_is_not_of_py4j)
    try:
        app(args=arguments, prog_name="recsys")
    except (ConfigError, UnknownIdError) as error:
        _fail(str(error), 2)
    except GateError as error:
        _fail(str(error), 3)
    except RecsysError as error:
        _fail(str(error), 1)
    except Exception as error:
        if not _is_spark_error(error):
            raise
        from recsys_spark.session import keep_log

        log = keep_log()
        where = f" (Spark's log: {log})" if log else ""
        line = summary(error)
        _fail(f"{line if line == NO_ANSWER else f'Spark: {line}'}{where}", 1)


def _is_not_of_py4j(record: logging.LogRecord) -> bool:
    return Path(record.pathname).parent.name != "py4j"


def _print_version(wanted: bool) -> None:
    if wanted:
        result_line(f"recsys-spark {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    pass


@app.command()
def nightly(
    config: ConfigFile,
    run_date: RunDate,
    overrides: Overrides = None,
    show: Annotated[int, typer.Option(min=0, help="Print the lists of this many users.")] = 0,
    from_step: Annotated[
        str | None,
        typer.Option(parser=_step_name, metavar="STEP", help="Run from this step on, also what is done."),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Run all steps, also what is done.")] = False,
    quiet: Quiet = False,
    log_file: LogFile = None,
) -> None:
    """Run a night: the steps from ingest to report that are not done yet, or have to be done again."""
    started = time.monotonic()
    configure(quiet, log_file)
    night = _night(config, run_date, overrides, reads_inputs=True)
    from recsys_spark.pipeline.show import describe_user, sample_users
    from recsys_spark.pipeline.show_runs import describe_metrics, describe_runs
    from recsys_spark.pipeline.steps import run_night

    run_night(night, from_step, force)
    reader = night.lake.reader()
    answer(describe_runs(reader, run_date, len(STEP_NAMES)))
    evaluated = night.ledger.last_done("evaluate")["run_id"]
    answer(describe_metrics(reader, evaluated, night.config.evaluate.cutoff))
    for user in sample_users(reader, show, run_date):
        answer(describe_user(reader, user, run_date))
    lake = night.config.lake
    result_line(
        f"\nDone in {duration(time.monotonic() - started)}. Tables: {lake.root or lake.catalog} (Delta)"
    )
    for command in (f"show --config {config} --user <id>", f"runs --config {config}"):
        result_line(f"Next: recsys {command}")


@app.command()
def pack(
    to: Annotated[Path, typer.Option("--to", help="Folder to write to.")] = Path("dist"), quiet: Quiet = False
) -> None:
    """Pack what a cluster lacks to run a night: Python libraries and Delta's jars; reads this environment."""
    configure(quiet)
    from recsys_spark.pack import pack as write

    with working("pack"):
        packed = write(to)
    size = packed.libraries.stat().st_size / 1e6
    result_line(f"{packed.libraries}: {size:.0f} MB, for --archives and PYTHONPATH")
    result_line(f"{to / 'jars'}: {len(packed.jars)} jars, for --jars")


def _step_command(name: str) -> Callable[..., None]:
    """The command that runs one step; its help is the first line of the step's docstring."""

    def command(
        config: ConfigFile,
        run_date: RunDate,
        overrides: Overrides = None,
        quiet: Quiet = False,
        log_file: LogFile = None,
    ) -> None:
        configure(quiet, log_file)
        _run_step(name, config, run_date, overrides)

    command.__doc__ = first_docstring_line(f"recsys_spark.pipeline.{name}", name)
    return command


def _train_command() -> Callable[..., None]:
    """The same for ``train``, which may be given the models to train."""

    def command(
        config: ConfigFile,
        run_date: RunDate,
        models: Models = None,
        overrides: Overrides = None,
        quiet: Quiet = False,
        log_file: LogFile = None,
    ) -> None:
        configure(quiet, log_file)
        chosen = [f"models=[{', '.join(models)}]"] if models else []
        _run_step("train", config, run_date, [*(overrides or ()), *chosen], shared=bool(models))

    command.__doc__ = first_docstring_line("recsys_spark.pipeline.train", "train")
    return command


def _publish_command() -> Callable[..., None]:
    """The same for ``publish``, which may overrule the gate."""

    def command(
        config: ConfigFile,
        run_date: RunDate,
        force: Annotated[
            bool, typer.Option("--force", help="Serve the lists although the gate is closed.")
        ] = False,
        reason: Annotated[str | None, typer.Option(help="Why; needed with --force, and recorded.")] = None,
        unless_later: Annotated[
            bool,
            typer.Option("--unless-later", help="Exit with 3 where a later date is served: for backfills."),
        ] = False,
        overrides: Overrides = None,
        quiet: Quiet = False,
        log_file: LogFile = None,
    ) -> None:
        if force != bool(reason):
            raise typer.BadParameter("--force and --reason belong together: the ledger keeps why")
        configure(quiet, log_file)
        night = _night(config, run_date, overrides, reads_inputs=False)
        from recsys_spark.pipeline.publish import publish

        with night.alone():
            served = publish(night, reason, unless_later)
        if not served:
            raise typer.Exit(3)

    command.__doc__ = first_docstring_line("recsys_spark.pipeline.publish", "publish")
    return command


def first_docstring_line(module: str, function: str) -> str:
    """First line of a function's docstring, read from the module's source without importing it."""
    spec = find_spec(module)
    source = spec.loader.get_source(module) if spec is not None and spec.loader is not None else ""  # type: ignore[attr-defined]
    for node in ast.parse(source).body:
        if isinstance(node, ast.FunctionDef) and node.name == function:
            return (ast.get_docstring(node) or "").split("\n")[0]
    return ""


_OWN_COMMANDS = {"train": _train_command, "publish": _publish_command}
for _name, _command in zip(STEP_NAMES, _COMMANDS, strict=True):
    app.command(_command)(_OWN_COMMANDS[_name]() if _name in _OWN_COMMANDS else _step_command(_name))


@app.command()
def show(
    config: ConfigFile,
    user: Annotated[
        list[str] | None, typer.Option(help="A user's id; may be given several times. Default: a few users.")
    ] = None,
    item: Annotated[list[str] | None, typer.Option(help="An item's id; may be given several times.")] = None,
    run_date: AnyDate = None,
    why: Annotated[
        bool, typer.Option("--why", help="Name the items of the history behind each recommendation.")
    ] = False,
    as_json: AsJson = False,
    overrides: Overrides = None,
) -> None:
    """Print users' histories and lists, or items and the lists that they are in, with titles."""
    loaded = _load(config, overrides)
    from recsys_spark.lakehouse.reader import reader_of
    from recsys_spark.pipeline.show import describe_item, describe_user, sample_users

    reader = reader_of(loaded.lake, loaded.session)
    users = user or ([] if item else sample_users(reader, SHOWN_USERS, run_date))
    models = None
    if why:
        from recsys_spark.pipeline.saved_models import SavedModels

        models = SavedModels(reader, loaded)
    asked = [describe_user(reader, one, run_date, models) for one in users]
    asked += [describe_item(reader, one, run_date) for one in item or ()]
    answer([section for sections in asked for section in sections], as_json)


@app.command()
def similar(
    config: ConfigFile,
    item: Annotated[list[str], typer.Option(help="An item's id; may be given several times.")],
    measure: Annotated[
        Measure | None, typer.Option(help="Another measure than that of the table.", show_default=False)
    ] = None,
    n: Annotated[int, typer.Option("-n", min=1, max=1000, help="How many.")] = 10,
    run_date: AnyDate = None,
    as_json: AsJson = False,
    overrides: Overrides = None,
) -> None:
    """Print the items that are most like some items, with titles."""
    reader = _reader(config, overrides)
    from recsys_spark.pipeline.show import describe_similar

    by = None if measure is None else measure.value
    asked = [describe_similar(reader, one, by, run_date, n) for one in item]
    answer([section for sections in asked for section in sections], as_json)


@app.command()
def current(config: ConfigFile, as_json: AsJson = False, overrides: Overrides = None) -> None:
    """Print what is served: date, models, age, and why."""
    reader = _reader(config, overrides)
    from recsys_spark.pipeline.show_runs import describe_current

    answer(describe_current(reader, datetime.now(UTC)), as_json)


@app.command()
def explore(
    config: ConfigFile,
    html: Annotated[
        Path | None, typer.Option("--html", help="Write a page with charts to this file instead.")
    ] = None,
    as_json: AsJson = False,
    overrides: Overrides = None,
) -> None:
    """Describe the ratings, users and items of the tables; starts Spark."""
    if html is not None and as_json:
        raise typer.BadParameter("--html and --json are two ways to answer: give one")
    loaded = _load(config, overrides)
    from recsys_spark.inspection.page import require_writable, write_page
    from recsys_spark.lakehouse.tables import Lakehouse
    from recsys_spark.pipeline.explore import explore, explored_parts, explored_sections
    from recsys_spark.session import get_session

    if html is not None:
        require_writable(html)
    explored = explore(Lakehouse(get_session(loaded.session), loaded.lake, loaded.retention))
    if html is None:
        answer(explored_sections(explored), as_json)
    else:
        written = write_page(html, "Ratings, users and items", explored_parts(explored))
        result_line(f"{html}: {written / 1e6:.1f} MB")


@app.command()
def tune(config: ConfigFile, run_date: RunDate, overrides: Overrides = None) -> None:
    """Search the Params of tune.ranges on the validation part of a night, and print the best."""
    night = _night(config, run_date, overrides, reads_inputs=False)
    import yaml

    from recsys_spark.pipeline.tune import tune

    with night.alone():
        found = tune(night)
    metric = night.config.evaluate.champion_metric
    for one in found:
        beside = "" if one.configured is None else f", and {one.configured:.4f} as it is configured"
        result_line(f"# {one.model}: {metric} = {one.value:.4f} on validation{beside}; {one.trials:,} trials")
        own = night.config.params.get(one.model, {})
        result_line(yaml.safe_dump({one.model: {**own, **one.params}}, sort_keys=False).rstrip())


@app.command()
def feedback(
    config: ConfigFile, run_date: RunDate, as_json: AsJson = False, overrides: Overrides = None
) -> None:
    """Say what users did with a date's lists, from the events that came after them."""
    night = _night(config, run_date, overrides, reads_inputs=False)
    from recsys_spark.pipeline.feedback import describe_feedback, feedback

    with night.alone():
        answer(describe_feedback(feedback(night)), as_json)


@app.command()
def rollback(
    config: ConfigFile,
    to: Annotated[
        date | None,
        typer.Option(parser=_day, metavar="DAY", help="A published date. Default: the one served before."),
    ] = None,
    overrides: Overrides = None,
) -> None:
    """Serve the lists again that were served before."""
    loaded = _load(config, overrides)
    from recsys_spark.pipeline.publish import rollback
    from recsys_spark.session import get_session

    rollback(get_session(loaded.session), loaded, to)


@app.command()
def reproduce(
    config: ConfigFile,
    run_date: RunDate,
    to: Annotated[str | None, typer.Option(help="Also write the lists to this folder, as Parquet.")] = None,
    overrides: Overrides = None,
) -> None:
    """Make a date's lists again from what they were made from, and compare them with the archive."""
    loaded = _load(config, overrides)
    from recsys_spark.pipeline.reproduce import reproduce
    from recsys_spark.session import get_session

    same = reproduce(get_session(loaded.session), loaded, run_date, to)
    result_line(f"identical: {same.rows:,} rows of {same.lists:,} users, made by {same.made_by}")


@app.command()
def maintain(
    config: ConfigFile,
    keep_days: Annotated[
        int | None, typer.Option(min=0, help="Keep files of so many days. Default: retention.days.")
    ] = None,
    below_floor: Annotated[
        bool, typer.Option("--below-floor", help="Let --keep-days be less than seven.")
    ] = False,
    overrides: Overrides = None,
) -> None:
    """Drop old run dates and models, compact the tables, remove the files of old versions."""
    loaded = _load(config, overrides)
    from recsys_spark.pipeline.maintain import maintain
    from recsys_spark.session import get_session

    maintain(get_session(loaded.session), loaded, datetime.now(UTC).date(), keep_days, below_floor)


@app.command()
def forget(
    config: ConfigFile,
    user: Annotated[list[str] | None, typer.Option(help="A user's id; may be given several times.")] = None,
    file: Annotated[Path | None, typer.Option(help="File with one id a line.")] = None,
    overrides: Overrides = None,
) -> None:
    """Remove people's rows from every table, and reject those that come again."""
    users = {*(user or ()), *(file.read_text(encoding="utf-8").splitlines() if file else ())} - {""}
    if not users:
        raise typer.BadParameter("name whom to forget, by --user or --file")
    loaded = _load(config, overrides)
    from recsys_spark.pipeline.forget import forget
    from recsys_spark.session import get_session

    forget(get_session(loaded.session), loaded, users, datetime.now(UTC).date())


@app.command()
def runs(
    config: ConfigFile,
    run_date: AnyDate = None,
    run: Annotated[str | None, typer.Option(help="Only the run of this id.")] = None,
    failed: Annotated[bool, typer.Option("--failed", help="Only steps that failed or died.")] = False,
    limit: Annotated[int, typer.Option(min=1, help="The newest so many.")] = 50,
    lineage: Annotated[
        date | None, typer.Option(parser=_day, metavar="DAY", help="What made the lists of this night.")
    ] = None,
    as_json: AsJson = False,
    overrides: Overrides = None,
) -> None:
    """Print the ledger: every step of every run, or what made a night's lists."""
    reader = _reader(config, overrides)
    from recsys_spark.pipeline.show_runs import describe_lineage, describe_runs

    if lineage is not None:
        answer(describe_lineage(reader, lineage), as_json)
    else:
        answer(describe_runs(reader, run_date, limit, run, failed), as_json)


@app.command()
def preview(path: Annotated[str, typer.Argument(help="Local file, folder or glob.")]) -> None:
    """Say what a file is, which rows would be rejected, and how to configure it; without Spark."""
    from recsys_spark.preview.report import preview

    preview(path)


@app.command()
def doctor(
    config: Annotated[Path | None, typer.Option("--config", "-c", help="Also look at its lake.")] = None,
) -> None:
    """Check Java, Spark, Delta, Python, threads, write access and memory."""
    from recsys_spark.doctor import examine

    checks = examine(_load(config, None).lake if config else None)
    rows = [{"check": c.check, "found": c.found, "": "ok" if c.ok else c.advice} for c in checks]
    table("recsys doctor", rows, ["check", "found", ""])
    if not all(check.ok for check in checks):
        raise typer.Exit(1)


@datasets.command("download")
def datasets_download(
    name: Annotated[str, typer.Argument(help="ml-100k, ml-1m, ml-25m, … ; a wrong name lists them all.")],
    to: Annotated[Path, typer.Option(help="Folder for the zip and its content.")] = Path("data"),
    mirror: Annotated[
        str | None, typer.Option(help="Address that holds the zips; default: GroupLens.")
    ] = None,
) -> None:
    """Fetch a MovieLens release, check and unpack it."""
    from recsys_spark.data.download import MIRROR, RELEASES, download

    if name not in RELEASES:
        raise typer.BadParameter(f"{name!r} is not one of {', '.join(RELEASES)}")
    result_line(str(download(name, to, mirror or MIRROR)))


@datasets.command("synthesize")
def datasets_synthesize(
    to: Annotated[str, typer.Option(help="Folder or URI for ratings, users and items, as Parquet.")],
    ratings: Annotated[
        int, typer.Option(min=1_000, max=1_000_000_000, help="How many, within 2 %.")
    ] = 100_000,
    seed: Annotated[int, typer.Option(min=0)] = SEEDED,
) -> None:
    """Make a data set of any size with latent tastes, genres and a power-law catalogue."""
    from recsys_spark.data.synthetic import synthetic_inputs, world_of
    from recsys_spark.session import get_session

    inputs = synthetic_inputs(get_session(), world_of(ratings, seed))
    for name, frame in (("ratings", inputs.ratings), ("users", inputs.users), ("items", inputs.items)):
        if frame is not None:
            frame.drop("fault", "raw", "source_file").write.mode("error").parquet(f"{to}/{name}")
    result_line(to)


def _load(config: Path, overrides: list[str] | None) -> Config:
    from recsys_spark.config import load_config
    from recsys_spark.models.registry import REGISTRY

    return load_config(config, REGISTRY, overrides or ())


def _night(config: Path, run_date: date, overrides: list[str] | None, reads_inputs: bool) -> Night:
    """The night of a configuration; what can be wrong with it is found before Spark starts."""
    from recsys_spark.pipeline.ingest import require_inputs
    from recsys_spark.pipeline.night import Night, check_models
    from recsys_spark.session import get_session

    loaded = _load(config, overrides)
    check_models(loaded)
    if reads_inputs:
        require_inputs(loaded)
    return Night(get_session(loaded.session), loaded, run_date)


def _run_step(
    name: str, config: Path, run_date: date, overrides: list[str] | None, shared: bool = False
) -> None:
    """A step, alone for its date unless it may be shared: models may be trained apart at one time."""
    night = _night(config, run_date, overrides, reads_inputs=name == "ingest")
    from recsys_spark.pipeline.steps import STEPS

    if shared:
        night.require_ready()
    with nullcontext() if shared else night.alone():
        STEPS[name](night)


def _reader(config: Path, overrides: list[str] | None) -> Reader:
    from recsys_spark.lakehouse.reader import reader_of

    loaded = _load(config, overrides)
    return reader_of(loaded.lake, loaded.session)


def _is_spark_error(error: Exception) -> bool:
    """Whether Spark or its gateway raised it; neither is imported unless something else has."""
    if isinstance(error, ConnectionError):
        return any("py4j" in frame.filename for frame in traceback.extract_tb(error.__traceback__))
    return type(error).__module__.split(".")[0] in ("pyspark", "py4j")


def _fail(message: str, code: int) -> None:
    if "recsys_spark.session" in sys.modules:
        from recsys_spark.session import stop_submitted

        stop_submitted()
    error_line(f"recsys: {message}")
    sys.exit(code)
