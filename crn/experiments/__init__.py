"""Many trainings: sweeps, the tables of the paper, and the jobs that both are made of.

It runs train.py as a program. It may use methods/, evaluation/, report/, system/ and the
configuration.
"""
