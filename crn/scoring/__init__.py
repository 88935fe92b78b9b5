"""From images and the maps of networks to anomaly maps and scores that compare."""
