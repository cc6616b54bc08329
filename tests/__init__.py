"""The tests; a package of its own name, because some installed ones leave a `tests` behind."""
