"""The intake in child processes: a decoder that hangs, grows or crashes costs only its image."""
