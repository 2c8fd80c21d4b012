"""Changes one thing at a time in a module and asks its tests whether they notice (`make mutate`)."""
