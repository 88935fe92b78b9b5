"""Metrics of one run of inference, as metrics.json holds them.

Structure; every key is always there, and a value is None where it cannot be known::

    {
      "model": {"checkpoint": str, "weights": str, "step": int, "imsize": int, "pairs": str},
      "dataset": {"layout": str, "path": str, "train": int, "test": int,
                  "normal": int, "anomalous": int, "unlabelled": int, "masks": int},
      "anomaly_score": str,
      "threshold": {"image": float, "pixel": float, "quantile": float, "source": str},
      "maps": {"smoothing": float, "sigma": float, "low": float, "high": float},
      "scores": {score: {"auroc": float, "auroc_95": [float, float], "average_precision": float,
                         "max_f1": float, "max_f1_threshold": float}} or None,
      "decisions": {"above": int, "of": int, "true_positives": int, "false_positives": int,
                    "true_negatives": int, "false_negatives": int, "f1": float} or None,
      "pixels": {"auroc": float, "average_precision": float, "aupro": float} or None,
      "kinds": {kind: {"images": int, "above": int, "auroc": float, "auroc_95": [float, float],
                       "average_precision": float, "pixels": as above or None}} or None,
      "bootstrap": {"resamples": int, "seed": int}
    }

All but "dataset" count test images only. "normal", "anomalous" and "unlabelled" are test images;
"above" are those above the threshold. "maps" has the colour scale of the overlays. "kinds" are the
kinds of defect, each against all normal test images.
"""
