"""The sections of a configuration: every key with its type, its default and what it does.

The reference in the documents is generated from here.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from recsys_spark.config.ingest import Ingest
from recsys_spark.config.rules import ItemRules, Rerank, Slot, UserRules
from recsys_spark.config.section import Count, Section
from recsys_spark.config.tuning import Tune
from recsys_spark.schema import SEEDED, Measure


class Lake(Section):
    """Where the tables live: a path root, or a catalog and schema."""

    root: str | None = Field(None, min_length=1)
    """Folder or URI under which every table is a Delta folder."""
    catalog: str | None = Field(None, pattern=r"^\w+(\.\w+)?$")
    """``schema`` or ``catalog.schema`` whose tables are managed by the catalog."""
    model_store: str | None = None
    """Folder or URI for fitted models; ``<root>/model_store`` when a root is given."""

    @model_validator(mode="after")
    def _one_place(self) -> Self:
        if (self.root is None) == (self.catalog is None):
            raise ValueError("give exactly one of root and catalog")
        if self.catalog is not None and self.model_store is None:
            raise ValueError("model_store is needed with catalog: a folder or URI for fitted models")
        return self

    @property
    def models_path(self) -> str:
        """Folder or URI for fitted models."""
        return self.model_store or f"{self.root}/model_store"


class Session(Section):
    """Settings of a local session; under spark-submit only ``spark`` is read, and only where the cluster
    set nothing.
    """

    cores: Count | None = None
    """Cores of a local session; all of the machine's when absent."""
    memory: str | None = Field(None, pattern=r"^\d+[mg]$")
    """Heap of a local session's driver, such as ``4g``; a quarter of the machine's memory, 1 to 8 GiB,
    when absent.
    """
    spark: dict[str, str] = Field({})
    """Any further Spark settings, as strings."""


class Split(Section):
    """How the ratings divide into train, validation and test: models are fitted on the first, chosen on the
    second, and judged on the third.
    """

    method: Literal["random", "temporal", "leave_last", "random_per_user", "holdout_users"] = "temporal"
    """``temporal``: the same cuts in time for all users; ``random`` rows, which is the default where the
    source has no timestamps; ``leave_last`` or ``random_per_user``: some rows of each user;
    ``holdout_users``: users that no model is fitted on (strong generalisation).
    """
    test_fraction: Annotated[float, Field(gt=0, lt=1)] = 0.1
    """Fraction of test rows (random, temporal), or of held-out users and of their test rows
    (holdout_users).
    """
    validation_fraction: Annotated[float, Field(gt=0, lt=1)] = 0.1
    """Fraction of validation rows (random, temporal), or of users held out for validation (holdout_users).
    """
    rows_per_user: Count = 1
    """Test rows per user, and validation rows (leave_last, random_per_user)."""
    min_user_ratings: Count = 1
    """Keep users with at least this many rows, within what is kept (k-core)."""
    min_item_ratings: Count = 1
    """Keep items with at least this many rows, within what is kept (k-core)."""
    repeats: bool = False
    """Whether what a user has had may be held out again, as music or groceries are: the parts are then cut
    between events, lists are judged by what is consumed again too, and a ranker learns from it. For events,
    with ``temporal`` or ``leave_last``, where ``recommend`` lets lists hold something that was seen.
    """

    @model_validator(mode="after")
    def _leaves_train(self) -> Self:
        if self.test_fraction + self.validation_fraction >= 1:
            raise ValueError(
                "test_fraction and validation_fraction must leave rows to train: together below 1"
            )
        return self


class Negatives(Section):
    """Negatives of the training part, as a table."""

    strategy: Literal["uniform", "popularity", "in-batch"] = "popularity"
    """Distribution over the items that a user has not taken."""
    ratio: Annotated[float, Field(ge=1, allow_inf_nan=False)] = 4.0
    """Negatives of each positive."""
    popularity_exponent: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.75
    """Exponent of an item's number of events, for popularity."""


class Evaluate(Section):
    """How the models are compared on the held-out part."""

    cutoffs: list[Count] = Field([5, 10, 20], min_length=1)
    """Lengths k at which lists are cut off for the metrics."""
    min_rating: float | None = None
    """Held-out rows below this rating do not count as relevant."""
    bootstrap: Annotated[int, Field(ge=0, le=10_000)] = 200
    """Resamplings of the users for the 95 % intervals; 0 for none."""
    champion_metric: str = Field("ndcg@10", pattern=r"^(hit_rate|precision|recall|map|mrr|ndcg)@\d+$")
    """The metric whose best model is served: hit_rate, precision, recall, map, mrr or ndcg, at one of
    ``cutoffs``.
    """

    @property
    def metric(self) -> str:
        """Name of ``champion_metric``, such as ``ndcg``."""
        return self.champion_metric.split("@")[0]

    @property
    def cutoff(self) -> int:
        """Cut-off of ``champion_metric``."""
        return int(self.champion_metric.split("@")[1])

    @model_validator(mode="after")
    def _measured(self) -> Self:
        if self.cutoff not in self.cutoffs:
            raise ValueError(
                f"champion_metric {self.champion_metric!r} has a cut-off that is not in {self.cutoffs}"
            )
        return self


class BlockSizes(Section):
    """What bounds the memory of a task that makes lists, in rows."""

    users_per_task: Count = 8_192
    """Users whose vectors and seen pairs a task holds: about ``users_per_task * (4 * rank + 16)`` bytes, and
    16 bytes for each of their seen pairs.
    """
    pairs_per_task: Count = 4_000_000
    """Seen pairs that a task holds on average at most, whatever the number of its users."""
    user_block: Count = 64
    """Users that are scored at a time; a task holds the lists of at least so many, about ``40 * user_block *
    n`` bytes, and of at most as many as make two million entries, or 80 MB.
    """
    item_block: Count = 32_768
    """Items that are scored at a time: the scores held take ``4 * user_block * item_block`` bytes; an item
    block itself takes ``4 * item_block * (rank + 1)`` bytes, in a mapped file that the system may page out.
    """
    pack_rows: Count = 1_000_000
    """Rows that a packing task holds before it hands them on."""


class Retention(Section):
    """How long what nights have read and made is kept."""

    days: Annotated[int, Field(ge=7, le=3_650)] = 30
    """Days for which the versions of tables that a night has read stay readable."""
    dates: Annotated[int, Field(ge=1, le=36_500)] = 90
    """Days for which ``recsys maintain`` keeps a run date's lists, negatives, rejected rows and models."""


class SimilarItems(Section):
    """The neighbours of every item: by the vectors of the champion, or by its weights of item pairs."""

    n: Annotated[int, Field(ge=1, le=1_000)] = 50
    """Neighbours of an item."""
    measure: Measure = "cosine"
    """Of vectors. ``cosine``: of like taste, however rare; ``dot``: popular items first; ``tempered``:
    between the two.
    """


class Shelves(Section):
    """A list for each user and value of a column of items, such as a genre, beside the user's own."""

    by: str = Field("genres", min_length=1)
    """Column of the table ``items`` whose values, one or several, are the shelves: at most 100."""
    n: Annotated[int, Field(ge=1, le=1_000)] = 10
    """Items of a shelf."""


class Recommend(Section):
    """The nightly lists."""

    n: Annotated[int, Field(ge=1, le=1_000)] = 10
    """Length of the lists."""
    refit: bool = True
    """Fit the champion again on all ratings, held-out ones included, before making the lists."""
    refit_every: Count = 1
    """Days from one fit to the next. In between, the champion of the last published fit is kept, and users
    whose ratings have changed since are folded in to it: no model is trained. Needs a champion that folds
    users in, and ``retention.days`` that are as long.
    """
    exclude_seen: bool | Annotated[list[str], Field(min_length=1)] = True
    """Whether lists leave out what the user has seen; or the event types that count as seeing, such as
    ``[purchase]``. Holds for evaluation too.
    """
    seen_days: Count | None = None
    """Days, the run date the last of them, in which something must have been seen to be left out: what was
    seen before may be listed again. Without it all that was ever seen is left out; so it is in evaluation.
    """
    users: UserRules = UserRules()
    """Who gets a list; everybody where nothing is said."""
    items: ItemRules = ItemRules()
    """What lists may hold; everything where nothing is said."""
    rerank: Rerank | None = None
    """How lists are made diverse; ``null`` for the order of the scores. Holds for evaluation too."""
    slots: list[Slot] = Field([])
    """Slots that are pinned or drawn. Models are evaluated without them."""
    fallback_by: Annotated[str, Field(min_length=1)] | None = None
    """Column of the table ``users``, such as ``country``, with at most 100 values: popular items that fill a
    list up are those of people of the user's value, and of everybody where these are not enough.
    """
    explain: Annotated[int, Field(ge=0, le=100)] = 0
    """Features that are written beside each row of a ranker's lists, in the table ``explanations``: those
    that add most to its score, or take most off; 0 for none.
    """
    shelves: Shelves | None = None
    """Lists by shelf, in the table ``shelves``; ``null`` for none. One more pass over the users."""
    similar_items: SimilarItems | None = SimilarItems()
    """The neighbours of every item, as a table; ``null`` for none."""
    block_sizes: BlockSizes = BlockSizes()
    """What bounds the memory of a task."""


Limit = Annotated[float, Field(ge=0, allow_inf_nan=False)]


class Gate(Section):
    """What lists must satisfy to be served. A limit that is ``null`` is not checked."""

    max_loss: Limit | None = 0.05
    """How much worse than what is served, and than the baseline, the champion may be on the test part, as a
    fraction of their ``evaluate.champion_metric``. A loss that a bootstrap over users takes for chance
    passes.
    """
    max_segment_loss: Limit | None = 0.2
    """The same against what is served, for each segment of users."""
    segment_users: Count = 100
    """Test users that a segment must have to be checked."""
    bootstrap: Annotated[int, Field(ge=100, le=10_000)] = 1_000
    """Resamplings of the test users."""
    max_uncovered: Limit | None = 0.05
    """Share of users without a list."""
    max_fallback: Limit | None = 0.3
    """Share of rows that are filled in from popular items."""
    max_row_change: Limit | None = 0.5
    """Change of the number of rows from what is served, as a fraction of it."""
    max_churn: Limit | None = 0.9
    """What changes in users' lists from those that are served: 1 - rank-biased overlap, from 0, nothing, to
    1, everything.
    """
    max_drift: Limit | None = 1.0
    """Change of the mean score from what is served, in standard deviations of it, where the same model made
    both; not of popularity, whose scores are numbers of users.
    """


class Feedback(Section):
    """What counts as an answer to lists, for ``recsys feedback``."""

    days: Count = 1
    """Days after the run date in which an answer may come."""
    events: Annotated[list[str], Field(min_length=1)] | None = None
    """Event types that are answers; all when absent."""
    min_rating: float | None = None
    """Ratings below this are no answers; of sources with ratings."""


class Report(Section):
    """The page that shows what a night has made."""

    folder: str | None = Field(None, min_length=1)
    """Folder or URI of the pages; ``<root>/reports`` when a root is given, else ``<model_store>/reports``."""
    users: Annotated[int, Field(ge=0, le=100)] = 5
    """Users whose lists it shows, with their history."""


class MLflow(Section):
    """Where models, with their Params and metrics, are logged to beside the tables."""

    tracking_uri: str = Field(min_length=1)
    """Of MLflow's server or database, such as ``https://mlflow.example.com`` or ``sqlite:///mlflow.db``."""
    experiment: str = Field("recsys", min_length=1)
    """Name of the experiment, which is made where there is none."""


class Config(Section):
    """A whole night. ``params`` holds, for each model, the section of its name."""

    lake: Lake
    """Where the tables live."""
    ingest: Ingest
    """What comes in."""
    session: Session = Session()
    """Settings of the Spark session."""
    split: Split = Split()
    """How the ratings divide into train, validation and test."""
    negatives: Negatives | None = None
    """Negatives of the training part, as a table; without this section there is none."""
    models: list[str] = Field(["popularity", "als"], min_length=1)
    """What is trained and compared; each may have a section of its name with its estimator's Params."""
    params: dict[str, dict[str, Any]] = Field({})
    history: dict[str, Annotated[list[str], Field(min_length=1)]] = Field({})
    """Model → the event types that it is fitted on, such as ``softmax: [purchase]``; all when absent."""
    evaluate: Evaluate = Evaluate()
    """How the models are compared."""
    recommend: Recommend = Recommend()
    """The nightly lists."""
    gate: Gate = Gate()
    """What lists must satisfy to be served."""
    feedback: Feedback = Feedback()
    """What counts as an answer to lists, for ``recsys feedback``."""
    report: Report | None = Report()
    """The page that shows what a night has made; ``null`` for none."""
    tune: Tune | None = None
    """What ``recsys tune`` searches; no night does."""
    mlflow: MLflow | None = None
    """Where models are logged to beside the tables; without this section nowhere."""
    retention: Retention = Retention()
    """How long what nights have read and made is kept."""
    seed: int = Field(SEEDED, ge=0, lt=2**31)
    """Of every random draw."""
    origin: str
    """The file the configuration was read from."""

    @model_validator(mode="after")
    def _refitted(self) -> Self:
        every = self.recommend.refit_every
        if every > 1 and not self.recommend.refit:
            raise ValueError("recommend.refit_every above 1 keeps what recommend.refit fits: it must be true")
        if every > self.retention.days:
            raise ValueError(
                "recommend.refit_every needs the ratings of the last fit: retention.days as long"
            )
        return self

    @model_validator(mode="after")
    def _remembered(self) -> Self:
        days = self.recommend.items.not_again_days
        if days is not None and days > self.retention.dates:
            raise ValueError(
                f"recommend.items.not_again_days, {days}, needs lists of so many days, and retention.dates "
                f"keeps those of {self.retention.dates}: raise it"
            )
        return self

    @model_validator(mode="after")
    def _slots_are_of_lists(self) -> Self:
        ranks = [rank for slot in self.recommend.slots for rank in slot.ranks]
        if len(set(ranks)) < len(ranks) or max(ranks, default=0) > self.recommend.n:
            raise ValueError(
                f"recommend.slots must have different ranks from 1 to recommend.n, {self.recommend.n}, got "
                f"{ranks}"
            )
        return self

    @model_validator(mode="after")
    def _counted_in_days(self) -> Self:
        recommend = self.recommend
        if recommend.seen_days is not None and recommend.exclude_seen is False:
            raise ValueError("recommend.seen_days says what is left out, and recommend.exclude_seen is false")
        for key, days in (
            ("seen_days", recommend.seen_days),
            ("users.active_days", recommend.users.active_days),
        ):
            if days is not None and not self.ingest.has_timestamps:
                raise ValueError(f"recommend.{key} needs ingest.source.columns.timestamp")
        return self

    @model_validator(mode="after")
    def _repeated(self) -> Self:
        if not self.split.repeats:
            return self
        if not (self.ingest.has_events and self.ingest.has_timestamps):
            raise ValueError("split.repeats is for events, and needs ingest.source.columns.timestamp")
        if self.split.method not in ("temporal", "leave_last"):
            raise ValueError(f"split.repeats is for temporal and leave_last, got {self.split.method}")
        if self.recommend.exclude_seen is True and self.recommend.seen_days is None:
            raise ValueError(
                "split.repeats is for lists that may hold what was seen: say so by recommend.exclude_seen or "
                "recommend.seen_days"
            )
        return self

    @model_validator(mode="after")
    def _answered(self) -> Self:
        if self.feedback.min_rating is not None and self.ingest.has_events:
            raise ValueError("feedback.min_rating is for sources with ratings: feedback.events is for events")
        return self

    @model_validator(mode="after")
    def _timed(self) -> Self:
        """Without timestamps there is no cut in time: rows divide by chance where nothing else is asked."""
        if self.ingest.has_timestamps or "method" in self.split.model_fields_set:
            return self
        return self.model_copy(update={"split": self.split.model_copy(update={"method": "random"})})

    @model_validator(mode="after")
    def _known_types(self) -> Self:
        asked = {f"history.{model}": types for model, types in self.history.items()}
        if isinstance(self.recommend.exclude_seen, list):
            asked["recommend.exclude_seen"] = self.recommend.exclude_seen
        if self.feedback.events is not None:
            asked["feedback.events"] = self.feedback.events
        known = self.ingest.events.weights
        for model in self.history:
            if model not in self.models:
                raise ValueError(f"history names {model!r}, which is not among models")
        for key, types in asked.items():
            for name in types:
                if name not in known:
                    raise ValueError(f"{key} names the event {name!r}, which ingest.events.weights has not")
        return self
