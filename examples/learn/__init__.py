"""The papers' whole loop on drawn images with known contents, to judge learning from noise."""
