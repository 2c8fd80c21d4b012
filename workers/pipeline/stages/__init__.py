"""The stages of the pipeline: each owns the bounds and the rules of one step."""
