"""Figures and the page that shows them, from plain arrays and files only; imports no JAX."""
