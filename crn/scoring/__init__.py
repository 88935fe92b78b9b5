"""From the maps of networks to anomaly maps and scores of images."""
