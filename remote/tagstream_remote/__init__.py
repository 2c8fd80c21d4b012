"""Captions from a vision-language model behind an OpenAI-compatible address.

The worker finds it by the entry point `tagstream.captioners`. It imports the worker; the worker imports nothing of it.
"""
