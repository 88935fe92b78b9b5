"""Many training runs: sweeps, the tables of the paper, and the jobs that both consist of.

It runs train.py as a program. It may use methods/, scoring/, evaluation/, report/, system/,
datasets, and the configuration with its command line.
"""
