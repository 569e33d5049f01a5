"""Campaigns: what the ordinary tests do a share of, as often as one wants, each by `make` and its name.

    failures, disk    system calls that fail (shims.py)              fuzz      random calls (calls, networks, arguments)
    signals, soak     interrupted calls, long runs                   hostile   files with random faults
    ulps              the largest errors

Each is a program: PYTHONPATH=tests python -m campaigns.fuzz --help. What is promised and what was found is in
docs/reliability.md and docs/accuracy.md.
"""
