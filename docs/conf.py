"""Sphinx: `sphinx-build -W -b html docs out`, with what `pip install '.[docs]'` brings."""

from importlib.util import find_spec

from sphinx_gallery.sorting import ExplicitOrder

import fastnw

project = "fastnw"
author = copyright = "The fastnw developers"
release = version = fastnw.__version__

extensions = [
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.mathjax",
    "numpydoc",
    "myst_parser",
]

highlight_language = "none"  # blocks say when they are Python
html_theme = "pydata_sphinx_theme"
html_title = f"fastnw {version}"
html_static_path = ["_static"]
html_css_files = ["layout.css"]
html_show_sourcelink = False
html_theme_options = {
    "logo": {"text": "fastnw"},
    "navbar_align": "left",
    "header_links_before_dropdown": 9,
    "show_toc_level": 2,
    "navigation_with_keys": False,
    "navbar_end": ["theme-switcher"],
    "footer_start": ["copyright"],
    "footer_end": [],
}
# A page without pages below it has nothing to show in the sidebar on the left.
html_sidebars = {page: [] for page in ("index", "how_it_works", "extending", "performance", "limits", "trust")}

default_role = "py:obj"  # a name in single backticks is a link where there is something to link to
autodoc_typehints = "none"  # docstrings say shapes, which types do not
autodoc_member_order = "bysource"
autodoc_mock_imports = [name for name in ("torch", "jax") if not find_spec(name)]
numpydoc_show_class_members = False  # each page names the members that it shows
myst_enable_extensions = ["dollarmath"]
myst_heading_anchors = 3

# The gallery: each docs/examples/plot_*.py runs and becomes a page of gallery/. `-D plot_gallery=0` makes the pages
# without running the scripts.
extensions += ["sphinx_gallery.gen_gallery"]
sphinx_gallery_conf = {
    "examples_dirs": "examples",
    "gallery_dirs": "gallery",
    "within_subsection_order": ExplicitOrder(
        f"plot_{name}.py"
        for name in (
            "chapter",
            "choosing_a_bandwidth",
            "digits",
            "diabetes",
            "density",
            "empty_windows",
            "adaptive_widths",
            "own_kernel",
            "learning_a_metric",
            "asif",
            "certificates",
            "plans",
            "large_n",
        )
    ),
    "capture_repr": (),  # a script prints what is to be read
    "doc_module": ("fastnw",),
    "download_all_examples": False,
    "image_srcset": ["2x"],
    "show_signature": False,
    "write_computation_times": False,
}
