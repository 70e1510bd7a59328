"""Images on disk: names, partition into classes and groups, train and evaluation sets."""
