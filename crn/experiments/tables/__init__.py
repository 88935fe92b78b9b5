"""The tables of the paper: training runs over models, recipes, data sets, seeds and unit counts.

`command` is the program tables.py; `runs` lists the training runs with their results, and
`train_and_score` carries one out. `baselines` scores without training, `summary` gathers the
results, and `pages`, results.md.jinja and `plot` show them.
"""
