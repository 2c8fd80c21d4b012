"""`train fit`: your own tags for a bundle."""
