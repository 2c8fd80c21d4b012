"""RAM, RAM++ and Tag2Text in plain torch, reading the weights of the published checkpoints."""
