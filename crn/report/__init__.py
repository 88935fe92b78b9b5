"""Reports: one self-contained HTML page about a run, for a browser without a network."""
