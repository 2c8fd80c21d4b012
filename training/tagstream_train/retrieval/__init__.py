"""Retrieval: images that find their captions, measured and trained."""
