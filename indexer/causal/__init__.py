"""The causal pass: what ablating a feature, or adding it, does to the model's next-token logits."""
