"""Train and measure taggers and captioners.

The commands are `tagstream train …` (training/tagstream_train/cli); docs/guide/training.md is the guide. It needs
the extra `train`, and nothing outside this package and the command line imports it.
"""
