"""`tagstream demo` and `tagstream stack`, which the worker's command line finds by their entry points."""
