"""Accuracy, calibration and paired tests from arrays; NumPy only."""
