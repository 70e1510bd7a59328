"""Pictures and tables of finished runs, made from the files that the runs wrote."""
