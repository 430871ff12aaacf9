"""Sphinx builds the documentation from this: `make docs`."""

import importlib.metadata

project = "okcore"
author = "The okcore developers"
copyright = author
release = version = importlib.metadata.version("okcore")

extensions = ["myst_parser", "numpydoc", "sphinx.ext.autodoc", "sphinx.ext.doctest"]
html_theme = "furo"
html_title = f"okcore {release}"
exclude_patterns = ["results/*.json"]

myst_enable_extensions = ["dollarmath"]
myst_heading_anchors = 3

# A class's page is its docstring and its own methods, in the order of the source.
autodoc_member_order = "bysource"
autodoc_typehints = "none"
numpydoc_show_class_members = False
doctest_global_setup = "import numpy as np\nimport okcore"
