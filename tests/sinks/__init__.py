"""`make sinks`: the examples in examples/index on the programs that they are for."""
