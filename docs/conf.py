"""Sphinx's settings: Markdown pages by MyST, the API from docstrings."""

project = "paddle_dcn"
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
highlight_language = "text"
html_theme = "furo"
html_title = "paddle_dcn"
html_show_copyright = False
html_theme_options = {"light_css_variables": {"code-font-size": "0.77em"}}  # 95 columns fit
exclude_patterns = ["conf.py"]

myst_heading_anchors = 3

# In docstrings, as in Markdown, single backticks hold code.
default_role = "code"
autodoc_typehints = "none"
autodoc_member_order = "bysource"
autodoc_default_options = {"members": True, "show-inheritance": True}
napoleon_use_ivar = True
napoleon_google_docstring = True
napoleon_numpy_docstring = False
