"""The search page: what `tagstream index serve` shows in a browser."""
