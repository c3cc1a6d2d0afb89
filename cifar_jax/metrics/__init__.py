"""Accuracy, calibration and paired tests; NumPy and SciPy only."""
