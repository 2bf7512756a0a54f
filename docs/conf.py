"""Settings of Sphinx: `make docs` builds the pages, and a warning is an error."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent / "_ext"))

from recsys_spark import __version__

project = "recsys-spark"
release = version = __version__

extensions = [
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.mathjax",
    "numpydoc",
    "myst_parser",
    "reference",  # docs/_ext/reference.py: the configuration's and the Params' tables
]
exclude_patterns = ["_build", "_ext", "_generated"]
html_theme = "pydata_sphinx_theme"
html_title = "recsys-spark"
html_static_path = ["_static"]
html_theme_options = {
    "show_toc_level": 2,
    "navigation_with_keys": False,
    "secondary_sidebar_items": ["page-toc"],
}

myst_enable_extensions = ["dollarmath", "deflist"]
myst_heading_anchors = 3

autodoc_member_order = "bysource"
autodoc_typehints = "none"  # the docstrings say the types
autosummary_generate = False
numpydoc_show_class_members = False
numpydoc_class_members_toctree = False
# what every public docstring must have; see the page on contributing
numpydoc_validation_checks = {
    "GL01",
    "GL06",
    "GL07",
    "GL08",
    "GL10",
    "PR01",
    "PR02",
    "PR04",
    "PR06",
    "SS01",
    "YD01",
}
numpydoc_validation_exclude = {
    r"\.__init__$",
    r"\.objectiveHistory$",
    r"\.to_config$",
    r"recsys_spark\.models\.\w+Model$",  # made by fit and load
    r"recsys_spark\.testing\.ModelContract",  # tests, whose names are sentences
    # Spark's own methods, which our classes inherit
    r"\.(clear|copy|explainParam|explainParams|extractParamMap|fit|fitMultiple|getOrDefault|getParam|hasDefault)$",
    r"\.(hasParam|isDefined|isSet|set|params|load|read|save|write|transform|hasParent|parent|overwrite)$",
    r"\.get[A-Z]\w*$",
}
numpydoc_xref_param_type = False
suppress_warnings = ["myst.header"]
