"""The text in pictures, as a kind of results: found by the entry point `tagstream.roles`."""
