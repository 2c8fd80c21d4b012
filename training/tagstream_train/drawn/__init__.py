"""Images that the project draws itself: what is in each is known, so that learning from noise can be judged."""
