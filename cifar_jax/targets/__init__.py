"""Compiles the programs of a recipe for devices that this machine lacks, and reads what their compilers report."""
