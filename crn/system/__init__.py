"""The machine the program runs on: files, text, processes, hardware, start and end.

It may use crn.errors, and no other room.
"""
