"""The tables of the paper: trainings over models, data sets, seeds and numbers of units.

`command` is the program tables.py; `grid` says which trainings there are and what came of them,
and `jobs` hands them to the workers of `experiments.jobs`. `trivial` scores without any training,
`summary` puts all together, and `tables` and `plot` show it.
"""
