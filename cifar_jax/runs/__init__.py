"""The run folder: configuration, history, results and checkpoints. No other room writes it."""
