"""What judges trainings: search, diagnosis, comparison, and the classifiers that a network is compared with."""
