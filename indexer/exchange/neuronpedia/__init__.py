"""Neuronpedia's and SAEDashboard's files, out and in."""
