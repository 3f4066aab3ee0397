"""The files of Neuronpedia and SAEDashboard, written and read."""
