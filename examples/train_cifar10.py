"""Train ResNet-20 on CIFAR-10: `python examples/train_cifar10.py --data cifar-10-python.tar.gz`.

--data takes the archives as published, unpacked or not, an image folder, or a packed .npz (see data/cifar10.py). The weights
end in OUT/resnet.safetensors, with a card of how they were made.
"""

from emonet_scratch.data.cifar10 import read_cifar10
from emonet_scratch.training.images import Recipe
from emonet_scratch.training.teach import teach

teach(__doc__, "cifar10", read_cifar10, Recipe(), "CIFAR-10")
