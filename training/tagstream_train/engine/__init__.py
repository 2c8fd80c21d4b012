"""The data engine: better training sets out of models' answers and people's corrections (RAM, section 3.3)."""
