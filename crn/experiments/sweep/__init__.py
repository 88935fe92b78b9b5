"""Sweeps on this machine, without an account: they read the same YAML files as W&B.

`command` is the program sweep.py; `file` reads a sweep, and `study` holds its runs and their
results, as trials of Optuna.
"""
