"""Settings of Sphinx for the documentation site: ``make docs``.

Sphinx, not Zensical: the pages are Markdown that reads well on GitHub too (MyST takes their links as they stand), and
the reference comes from the docstrings by autodoc, which Zensical has no counterpart of without a second tool. The
sources are the repository itself, so that links between docs, configs and the README lead to the same files as they do
there.
"""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

import mmvim  # noqa: E402

project = 'mmvim'
copyright = 'the mmvim authors, Apache-2.0'
release = version = mmvim.__version__
root_doc = 'docs/site/index'
include_patterns = ['*.md', 'docs/**', 'configs/README.md', 'configs/*/README.md', 'requirements/*.md']
exclude_patterns = ['docs/site/build/**']
extensions = [
    'myst_parser',
    'sphinx.ext.autodoc',
    'sphinx.ext.intersphinx',
    'sphinx.ext.mathjax',
    'sphinx.ext.napoleon',
    'sphinx.ext.viewcode',
]

myst_enable_extensions = ['dollarmath']
myst_heading_anchors = 4
# A recipe's file, a tool, a table's script: links lead to the file as it is.
myst_links_external_new_tab = False
suppress_warnings = ['myst.header']  # a page may begin below a picture

autodoc_default_options = {'members': True, 'member-order': 'groupwise', 'show-inheritance': True}
autodoc_typehints = 'description'
autodoc_typehints_description_target = 'documented'
autodoc_preserve_defaults = True
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_rtype = False
# Nothing is fetched while the pages are made: they can be built without a network.
intersphinx_mapping: dict[str, tuple[str, None]] = {}

html_theme = 'furo'
html_title = f'mmvim {release}'
html_copy_source = False
html_show_sphinx = False
