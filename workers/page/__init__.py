"""Pages of HTML about images: what the demo and `tagstream tag --page` write. Needs no server and no model."""
