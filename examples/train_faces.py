"""Train ResNet-20 on faces and on what ten people said of each: `python examples/train_faces.py --data fer2013.csv`.

--data takes FER2013 as published, packed, or in class folders (see data/fer2013.py), with the votes of FER+ where they are.
Training starts from the weights for CIFAR-10 that come with the package. The label of a test face is its most frequent
vote. The weights end in OUT/resnet.safetensors, with a card of how they were made.
"""

from emonet_scratch.data.fer2013 import read_fer2013
from emonet_scratch.training.images import Images, Recipe
from emonet_scratch.training.teach import teach

RECIPE = Recipe(start="pretrained", epochs=100, lr=0.1, turn=10.0, zoom=0.1, light=0.2, blur=0.4)


def read(path: str, split: str) -> Images:
    """Shares of the votes to learn from, the most frequent vote to be tested by."""
    faces = read_fer2013(path, split)
    return faces.voted() if split == "train" else faces.majority()[:2]


teach(__doc__, "faces", read, RECIPE, "FER2013 with votes of FER+")
