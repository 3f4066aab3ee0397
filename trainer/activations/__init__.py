"""Activations to train on: harvested by the model, kept in a cache or a bounded buffer, taken in batches."""
