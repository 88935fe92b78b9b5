"""Sweeps on this machine, without an account: they read the same YAML files as W&B.

`command` is the program sweep.py; `file` and `parameters` read a sweep, `study` holds its runs,
and `report` shows their results.
"""
