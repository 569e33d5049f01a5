"""The site: `make docs`, then docs/_build/html/index.html. Nothing on it comes from elsewhere: it reads the same offline."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent / "_extensions"))

import fastbp

project = "fastbp"
author = "the fastbp developers"
copyright = author
version = release = fastbp.__version__

extensions = [
    "sphinx.ext.autodoc",
    "numpydoc",
    "myst_parser",
    "sphinx_copybutton",
    "formulas",
]
exclude_patterns = ["_build"]
suppress_warnings = ["myst.header"]  # pages that begin below a title of their own on other sites, too

myst_enable_extensions = ["dollarmath"]
myst_fence_as_directive = ["math"]
myst_heading_anchors = 4  # links to headings, spelled as elsewhere

autodoc_member_order = "bysource"
autodoc_typehints = "none"  # the docstrings say more
numpydoc_show_class_members = False

html_math_renderer = "formulas"
highlight_language = "none"  # of a block that does not say: a formula
html_theme = "furo"
html_title = f"fastbp {version}"
html_static_path = ["_static"]
html_css_files = ["fastbp.css"]
html_copy_source = False
html_show_sourcelink = False
copybutton_prompt_text = r">>> |\.\.\. |\$ "
copybutton_prompt_is_regexp = True
