"""Sphinx: `sphinx-build -W -b html docs out`, with what `pip install '.[docs]'` brings."""

from importlib.util import find_spec

import fastnw

project = "fastnw"
author = copyright = "The fastnw developers"
release = version = fastnw.__version__

extensions = ["sphinx.ext.autodoc", "numpydoc", "myst_parser"]
html_theme = "alabaster"
html_theme_options = {"description": "Kernel-weighted prediction", "page_width": "1100px", "sidebar_width": "240px"}
html_sidebars = {"**": ["about.html", "searchbox.html", "navigation.html"]}
html_show_sourcelink = False

default_role = "py:obj"  # a name in single backticks is a link where there is something to link to
autodoc_typehints = "none"  # docstrings say shapes, which types do not
autodoc_member_order = "bysource"
autodoc_mock_imports = [name for name in ("torch", "jax") if not find_spec(name)]
numpydoc_show_class_members = False  # each page names the members that it shows
myst_heading_anchors = 3
