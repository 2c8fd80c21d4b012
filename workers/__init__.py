"""tagstream: the stream worker that tags and captions every image of an image store, exactly once."""

__version__ = "0.2.0"
