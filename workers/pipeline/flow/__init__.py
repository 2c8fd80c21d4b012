"""What bounds and shares the work in flight: budgets, queues, gates, single flight, breakers."""
