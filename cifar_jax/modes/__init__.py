"""One file for each `--mode`: the function that does the work, for the command line and for Python alike."""
