"""Package metadata. Tool settings are in pyproject.toml."""

import re
from pathlib import Path

from setuptools import find_packages, setup

REVISION = Path(__file__).with_name("recsys_spark") / "revision.py"
INDEX = ["usearch>=2.16"]  # approximate nearest neighbours, for lists from very large catalogues
RANKER = [
    "xgboost-cpu>=3",  # gradient-boosted trees on Spark, for the ranker; without the files for GPUs
    "scikit-learn>=1.5",  # which xgboost.spark imports
]
TUNE = ["optuna>=4"]  # chooses what a search tries next, ends what is hopeless, and remembers it all
MLFLOW = ["mlflow-skinny>=3.1"]  # logs to a tracking server; without what serves one
TEST = [
    "pytest>=8",
    "pytest-cov>=5",
    "pytest-xdist>=3.6",  # the fast tests on two cores
    "hypothesis>=6",  # property tests of kernels and cleaning
    "scikit-learn>=1.5",  # an independent ndcg_score to compare ours with
    "duckdb>=1.3",  # the same, as SQL
    "pytest-playwright>=0.6",  # opens reports in a browser
    "axe-playwright-python>=0.1.4",  # finds what keeps people from reading them
    "jupytext>=1.16",  # compares the notebooks with their texts
    "sybil>=9",  # runs the code blocks of the documents
    "numpydoc>=1.8",  # reads the docstrings that the references are made of
    "ruff>=0.8",
    "mypy>=1.13",
    "import-linter>=2.1",  # holds the layers
    "pandas-stubs",
    "types-PyYAML",
    *INDEX,
    *TUNE,
    *RANKER,
    *MLFLOW,
    "sqlalchemy>=2",  # a database to log to, in place of a server
    "alembic>=1.13",  # its tables
]

DOCS = [
    "sphinx>=8",
    "numpydoc>=1.8",  # the docstrings' format, which it also validates
    "myst-parser>=4",  # pages in Markdown
    "pydata-sphinx-theme>=0.16",  # the theme of the field's own documents
    "latex2mathml>=3.77",  # formulas that browsers draw without a script from elsewhere
]

setup(
    name="recsys-spark",
    version=re.search(r'__version__ = "(.+)"', REVISION.read_text(encoding="utf-8"))[1],
    description="Nightly recommendations on Spark and Delta Lake: ratings in, evaluated top-N tables out",
    long_description=Path(__file__).with_name("README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    packages=find_packages(include=["recsys_spark", "recsys_spark.*"]),
    package_data={"recsys_spark": ["py.typed", "inspection/*.j2"]},
    python_requires=">=3.11,<3.14",  # what pyspark 4.2 and numba both support
    install_requires=[
        # delta-spark's jar is built for one minor version of Spark; unpinned, pip pairs them wrongly
        "pyspark==4.2.0",
        "delta-spark==4.4.0",
        "numpy>=2,<3",
        "numba>=0.61,<0.69",  # compiles the inner loops of training; a cache of ours keeps its code
        "scipy>=1.13",  # the BLAS that numba's matrix products call
        "pandas>=2.2,<3",  # Spark 4.2 does not work with pandas 3
        "pyarrow>=18",
        "pydantic>=2.7",  # closed configuration models with errors that say where
        "PyYAML>=6",
        "charset-normalizer>=3",  # names the encoding of a text that is no UTF-8, for `recsys preview`
        "typer>=0.15",  # the command line
        "rich>=13",  # tables and progress on a terminal
        "cryptography>=44",  # AES-GCM between the tasks of a fit, where Spark's own network is encrypted
        "deltalake>=1",  # reads a few rows without Spark: for `recsys show` and its like, and of the ledger
        "rapidfuzz>=3",  # the ids and titles that are nearest to an unknown one
        "altair>=5.5",  # charts
        "vl-convert-python>=1.7",  # what draws them, to be put into a page that needs no network
        "jinja2>=3.1",  # that page, with everything from data escaped, by markupsafe
        "openTSNE>=1.0.2",  # maps of items, whose neighbours are those of their vectors
        "packaging>=24",  # reads the requirements of libraries, for `recsys pack`
        "psutil>=6",  # free memory and cores, for `recsys doctor` and the local session's heap
    ],
    extras_require={
        "test": TEST,
        "docs": DOCS,
        "bench": ["implicit==0.7.3", "threadpoolctl>=3"],  # the peer that the benchmarks measure against
        "index": INDEX,
        "tune": TUNE,
        "ranker": RANKER,
        "mlflow": MLFLOW,
        "notebooks": [
            "jupytext>=1.16",
            "ipykernel>=6",
            "nbconvert>=7",
            *RANKER,
        ],  # what runs them, with their outputs
        "bench-torch": ["torch>=2.6"],  # the softmax model's peer; of its own, as its wheels take 3 GB
    },
    entry_points={"console_scripts": ["recsys=recsys_spark.cli:main"]},
)
