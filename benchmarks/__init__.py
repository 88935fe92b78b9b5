"""Measurements, run by hand: ``python -m benchmarks.step`` and its neighbours print tables.

Times on a shared machine drift, so what is compared is run in turn, in one process, and medians
and their ratios are printed.
"""
