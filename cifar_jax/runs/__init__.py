"""The run folder: configuration, history, results and checkpoints."""
