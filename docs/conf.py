"""The site: Sphinx with Markdown pages (MyST) and the theme furo; `make docs` builds it without network."""

from __future__ import annotations

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "src"), str(ROOT / "docs" / "_ext")]

from deeprecsys.version import VERSION

project, author, version = "DeepRecSys", "The DeepRecSys developers", VERSION
project_copyright = "%Y, The DeepRecSys developers"
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "generated"]
exclude_patterns = ["_ext", "design/README.md"]  # the list that replaces it: explanation.md

# Links between pages and to headings are checked: one that leads nowhere fails the build (`-W`).
myst_heading_anchors = 4
myst_enable_extensions = ["colon_fence"]
suppress_warnings = ["myst.header"]  # an included piece may begin below the first level

smartquotes = False  # "--out" is an option
highlight_language = "sh"  # of blocks that name none: commands
autodoc_member_order = "bysource"
autodoc_typehints = "none"  # the signature has them
default_role = "code"  # what docstrings put between backticks
napoleon_use_ivar = True

html_theme = "furo"
html_title = f"DeepRecSys {VERSION}"
html_show_sphinx = False
html_copy_source = False
html_theme_options = {"navigation_with_keys": True}
html_static_path = ["_static"]
html_css_files = ["site.css"]
