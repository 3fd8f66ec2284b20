"""Reading clips, sound and feature files; knows nothing of layers."""
