"""The tables of the paper: trainings over models, recipes, data sets, seeds and numbers of units.

`command` is the program tables.py; `runs` says which there are and what came of them, and
`train_and_score` is one. `baselines` scores without any training, `summary` puts all together, and
`pages` and `plot` show it.
"""
