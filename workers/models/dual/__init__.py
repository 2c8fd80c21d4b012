"""Dual encoders: one tower turns images, another sentences into vectors of one space (SigLIP 2, CLIP)."""
