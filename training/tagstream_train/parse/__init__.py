"""Captions into tags: what things, properties and actions a caption names, and which of them become labels."""
