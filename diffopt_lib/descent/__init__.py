"""Ways down a smooth function, and the loop around them, in which every element of a batch converges on its own."""
