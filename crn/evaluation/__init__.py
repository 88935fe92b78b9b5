"""What anomaly scores and maps are worth: metrics, thresholds, and the results of an inference.

It may use methods/, checkpoints/ and system/, and the configuration.
"""
