"""The classes that are told apart, in the order in which every array has them: AFEW's, alphabetical."""

CLASSES = ("Angry", "Disgust", "Fear", "Happy", "Neutral", "Sad", "Surprise")
