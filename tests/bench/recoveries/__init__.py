"""The faults of the bench ``recovery``, each in a file, whose ``measure`` makes them and takes the time."""
