"""Sweeps on this machine: the YAML files that W&B takes, without an account.

`command` is the program sweep.py; `file` and `parameters` read a sweep, `study` says which runs
there are, `jobs` hands them to the workers of `experiments.jobs`, and `report` shows what came of
them.
"""
