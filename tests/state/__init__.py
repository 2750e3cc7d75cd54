"""Properties of the pure machine, over journals that the simulation makes."""
