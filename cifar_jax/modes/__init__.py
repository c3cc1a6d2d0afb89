"""One file for each `--mode`: the function behind the command line and the Python API."""
