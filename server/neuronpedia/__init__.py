"""Neuronpedia's API, so that scripts and clients written for it work against this server: nine endpoints of
the same paths and fields, answered from the index and the live model. docs/neuronpedia.md says where they
differ.

    requests, records  what is asked and answered    features  a feature's page as Neuronpedia's feature
    browse             routes that read the index    compute   routes that run the model
    readings           texts read by dictionaries    steer_frames  events of a steer
"""

from server.neuronpedia import browse, compute

ROUTERS = (browse.router, compute.router)

__all__ = ["ROUTERS"]
