"""Figures and pages, from plain arrays and the files of run folders; imports no JAX."""
