"""The site: `make docs`, then docs/_build/html/index.html. Nothing on it comes from elsewhere: it reads the same offline."""

import re
import sys
from importlib.util import find_spec
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
    "sphinx_gallery.gen_gallery",
    "formulas",
]
exclude_patterns = ["_build", "gallery/*.ipynb", "gallery/*.py"]

PEERS = {
    "dask",
    "jax",
    "lightgbm",
    "mpi4py",
    "numba",
    "optax",
    "pyarrow",
    "sklearn",
    "torch",
    "xgboost",
}  # that examples may need


def can_run(example: Path) -> bool:
    """Whether all that it imports is installed; if not, it is shown without its output."""
    needed = set(re.findall(r"^(?:import|from) (\w+)", example.read_text(encoding="utf-8"), re.MULTILINE))
    return all(find_spec(name) for name in needed & PEERS)


EXAMPLES = Path(__file__).parents[1] / "examples"
runnable = [re.escape(example.name) for example in sorted(EXAMPLES.glob("*.py")) if can_run(example)]
sphinx_gallery_conf = {
    "examples_dirs": str(EXAMPLES),
    "gallery_dirs": "gallery",
    "filename_pattern": rf"/(?:{'|'.join(runnable)})$",
    "within_subsection_order": "FileNameSortKey",
    "download_all_examples": False,
    "show_memory": False,
    "show_signature": False,
    "write_computation_times": False,
    "remove_config_comments": True,
}
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
