"""What tagstream publishes, kept in PostgreSQL: one row for each image.

The commands are `tagstream index …` (`cli.py`). It imports the worker's parts; the worker imports nothing of it.
"""
