"""Settings of Sphinx: `make docs` builds the pages, and a warning is an error."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent / "_ext"))

from recsys_spark import __version__

project = "recsys-spark"
release = version = __version__

extensions = [
    "sphinx.ext.autodoc",
    "numpydoc",
    "myst_parser",
    "mathml",  # docs/_ext/mathml.py: formulas without a script
    "reference",  # docs/_ext/reference.py: the tables of the configuration and of the Params
]
exclude_patterns = ["_build", "_ext", "_generated"]
nitpicky = False  # the docstrings' types are words ("int, at least 1"), not names to link

html_theme = "pydata_sphinx_theme"
html_title = "recsys-spark"
html_static_path = ["_static"]
html_css_files = ["custom.css"]
html_show_sourcelink = False
html_sidebars = {page: [] for page in ("index", "getting-started", "benchmarks", "genindex", "search")}
html_theme_options = {
    "header_links_before_dropdown": 6,
    "navbar_align": "left",
    "navigation_with_keys": False,
    "secondary_sidebar_items": ["page-toc"],
    "show_toc_level": 2,
}

myst_enable_extensions = ["dollarmath", "deflist"]
myst_heading_anchors = 3

toc_object_entries_show_parents = "hide"
autodoc_member_order = "bysource"
autodoc_typehints = "none"  # the docstrings say the types
autodoc_default_options = {
    "members": True,
    # a method of our own bases is shown with each class, those of Spark's are in Spark's documents
    "inherited-members": "Params, Estimator, Evaluator, Model, Transformer, MLWritable, MLReadable, object",
}
numpydoc_show_class_members = False
numpydoc_class_members_toctree = False
numpydoc_xref_param_type = False
# Beyond what ruff checks; the page on contributing says what is left out, and why.
numpydoc_validation_checks = {
    "GL01",
    "GL03",
    "GL05",
    "GL06",
    "GL07",
    "GL08",
    "GL09",
    "GL10",
    "PR01",
    "PR02",
    "PR03",
    "PR04",
    "PR05",
    "PR06",
    "PR08",
    "PR09",
    "PR10",
    "RT02",
    "RT03",
    "RT04",
    "RT05",
    "SS01",
    "SS02",
    "SS04",
    "YD01",
}
numpydoc_validation_exclude = {
    r"\.__init__$",
    r"^recsys_spark\.\w+Model$",  # made by fit and load, not by hand
    r"^recsys_spark\.testing\.ModelContract\.",  # tests, whose names are sentences
}


INTERNAL = {
    "uid",
    "read",
    "to_config",
    "frames",
    "frame_names",
    "from_frames",
    "fitted_values",
    "model_config",
}
"""What our own bases need, or pydantic and Spark add."""


def hide_internals(_app: Any, what: str, name: str, _object: object, skip: bool, _options: Any) -> bool:
    """Leave out what is internal, and getters and setters of Params: a sentence says that they are there."""
    return skip or (what == "class" and (name in INTERNAL or re.match(r"[gs]et[A-Z]", name) is not None))


def setup(app: Any) -> None:
    """Called by Sphinx."""
    app.connect("autodoc-skip-member", hide_internals)
