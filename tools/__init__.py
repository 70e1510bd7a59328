"""Tools around data sets: they prepare folders for training and evaluation, and check them."""
