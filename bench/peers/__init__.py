"""Trainers and runners of other libraries behind one interface; each runs in its own environment."""
