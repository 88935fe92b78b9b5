"""Many training runs: sweeps, the tables of the paper, and the jobs that both consist of."""
