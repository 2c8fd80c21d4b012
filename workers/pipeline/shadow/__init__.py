"""A second tagger beside the live one: it sees a share of the images, and only its agreement is told."""
