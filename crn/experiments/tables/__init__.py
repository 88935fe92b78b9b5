"""The tables of the paper: trainings over models, data sets, seeds and numbers of units.

`command` is the program tables.py; `trainings` says which there are and what came of them.
`trivial` scores without any training, `summary` puts all together, and `pages` and `plot` show it.
"""
