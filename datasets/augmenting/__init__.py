"""Parts of `datasets.augmentations`: what is drawn, and how it is done on CPUs and on devices."""
