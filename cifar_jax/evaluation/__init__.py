"""What a model is worth on a split: metrics, calibration, test-time augmentation."""
