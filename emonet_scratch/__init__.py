"""Emotion recognition from clips, with every layer, gradient and optimizer written by hand."""
