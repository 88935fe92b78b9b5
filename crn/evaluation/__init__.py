"""What anomaly scores and maps are worth: metrics, thresholds, and the results of an inference."""
