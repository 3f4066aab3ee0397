"""Scripts that measure what dictionaries and names are worth, each run as `python -m experiments.NAME`.
Figures go to results/ as JSON; the tables and plots of docs/ are made from there.
"""
