"""The container images, run as their pods run them (make image)."""
