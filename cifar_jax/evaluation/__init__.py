"""Evaluation of a model on a split: logits, metrics, calibration, test-time augmentation."""
