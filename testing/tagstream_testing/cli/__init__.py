"""The commands `tagstream demo` and `tagstream stack`, found by entry points."""
