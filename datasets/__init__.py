"""The data sets: their layouts on disk, the table of samples, and one reader for all images.

It may use crn.system and crn.errors and no other package of crn.
"""
