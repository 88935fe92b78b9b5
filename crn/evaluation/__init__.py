"""Metrics of anomaly scores and maps, thresholds, and the results of an inference."""
