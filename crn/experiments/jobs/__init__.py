"""Programs that run side by side until all of a list have ended: what sweeps and benchmarks share.

`process` starts one and watches it, `workers` keeps some of them running and stops them on a
signal. What there is to run, and what is recorded of it, the caller says as `Jobs`.
"""
