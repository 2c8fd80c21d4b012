"""Judging the delivery invariant from the topics alone: every record has one outcome set, and order was kept."""
