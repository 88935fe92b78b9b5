"""Sweeps on this machine: the YAML files that W&B takes, without an account.

`command` is the program sweep.py; `file` and `parameters` read a sweep, `study` says which runs
there are, and `report` shows what came of them.
"""
