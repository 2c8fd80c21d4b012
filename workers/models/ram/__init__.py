"""RAM, RAM++ and Tag2Text in plain torch, with the published weights."""
