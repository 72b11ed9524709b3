"""Faults at random moments: after each, a plain second call ends where an undisturbed one does.

`python -m tests.chaos` is the campaign, whose counts accumulate in docs/chaos.csv; `test_chaos.py` is the sample of
`make test`. A kind of fault is a function of `faults.py`.
"""
