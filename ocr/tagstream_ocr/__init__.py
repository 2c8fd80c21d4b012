"""The text in pictures, as a kind of results.

The worker, the index and the search page find it by the entry point `tagstream.roles`. It imports the worker; the
worker imports nothing of it.
"""
