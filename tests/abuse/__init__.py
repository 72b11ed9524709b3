"""Attacks on relume, seeded and repeatable: `make abuse`, which is `python -m tests.abuse`, prints what became of each.

A *family* is a module with a function `attack(setting)` that yields rows; `tests.abuse.__main__` lists them. A short
form of each runs in `make test`.
"""
