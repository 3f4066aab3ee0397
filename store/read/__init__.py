"""Queries: one published build, opened for reading, and the record of each page."""
