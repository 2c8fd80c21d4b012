"""How an image event is read from each dialect. `schemas.image_event` is the way in; nothing here is for others."""
