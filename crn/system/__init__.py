"""The machine the program runs on: files, text, processes, hardware, startup and exit.

It may use crn.errors and no other package of crn.
"""
