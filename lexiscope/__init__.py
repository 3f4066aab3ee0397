"""The domain: the dictionary, its anchors, the metrics, the evidence, and the records that all share."""
