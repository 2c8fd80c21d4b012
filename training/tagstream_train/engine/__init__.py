"""The data engine: training sets improved by models and people."""
