"""Captions from a vision-language model behind an address; a worker finds it by `tagstream.captioners`."""
