"""Parse captions into tags, and choose the labels."""
