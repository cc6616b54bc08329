"""The tests, named after what they test.

`paddle_dcn/layers.py` has `tests/test_layers.py`, `paddle_dcn/export/` has `tests/export/`, and so
on; `custom_ops/kernels/` has `tests/kernels/`, `custom_ops/paddle/` has `tests/binding/`, the
`migrate` command `tests/migrate/`; the repository itself has `tests/project/`. `tests/support/` is
imported by tests, `tests/scripts/` run in processes of their own.

A package, because some installed ones leave a `tests` behind.
"""
