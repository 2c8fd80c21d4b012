"""Drawn images with known contents, to judge learning from noise."""
