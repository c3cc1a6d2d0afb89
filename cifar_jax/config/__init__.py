"""Configuration: every key with its default and range, checks, recipes and the command line."""
