"""A trained network that names what images show."""
