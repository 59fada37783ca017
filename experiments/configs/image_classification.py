"""Settings of experiments/image_classification.py: every field with its meaning, and the presets.

Choose a preset with `--config=experiments/configs/image_classification.py:NAME`, change any field with `--config.FIELD=VALUE`.
"""

from seqjax import cnn
from seqjax.data.images import SOURCES
from seqjax.run import recipe
from seqjax.run.settings import Field, at_least, build, one_of, within

# Names of networks that take images; the others take sequences.
NETWORKS = tuple(name for name in cnn.names() if name not in ("tcn", "text_cnn"))

FIELDS = {
    "seed": Field(0, "Seed of the parameters, the order of the images, the augmentation and the dropout.", within(0, 2**32)),
    # Data.
    "data.source": Field("embedded", "Where the images come from.", one_of(*SOURCES)),
    "data.name": Field("digits", "The embedded set (digits) or TFDS set (mnist, cifar10, ...); unused for file."),
    "data.path": Field(
        "",
        "Folder of idx files, .npz file or folder with a folder of images for each class, for source=file.",
        when=("data.source", ("file",)),
    ),
    "data.data_dir": Field(
        "", "TFDS folder with the prepared set; empty for ~/tensorflow_datasets.", free=True, when=("data.source", ("tfds",))
    ),
    "data.image_size": Field(0, "Side to which all images are scaled; 0 keeps the set's own.", at_least(0)),
    "data.validation_fraction": Field(
        0.1, "Share of the training images held out where there is no validation part.", within(0.001, 0.9)
    ),
    "data.batch_size": Field(128, "Images of a step, B.", at_least(1)),
    "data.eval_batch_size": Field(256, "Images of a step in evaluation; changes speed, not the result.", at_least(1), free=True),
    "data.workers": Field(0, "Threads that decode image files ahead of the training; 0 for sets in memory.", at_least(0), free=True),
    # Augmentation, on the device, in training only.
    "augment.crop_padding": Field(0, "Pad with so many zeros on each side and crop at random; 4 for CIFAR.", at_least(0)),
    "augment.flip": Field(False, "Mirror left and right, each image with probability 1/2."),
    "augment.cutout": Field(0, "Side of a square that is blanked out; 16 for CIFAR-10.", at_least(0)),
    "augment.mixup": Field(0.0, "alpha of mixup; 0.2 to 1.", at_least(0)),
    "augment.jitter": Field(0.0, "Random brightness, contrast and saturation, up to this share.", within(0.0, 1.0)),
    "augment.affine_degrees": Field(0.0, "Greatest random rotation, in degrees.", within(0.0, 180.0)),
    "augment.affine_translate": Field(0.0, "Greatest random shift, as a share of the side.", within(0.0, 1.0)),
    "augment.affine_scale": Field(0.0, "Greatest random change of size.", within(0.0, 1.0)),
    "augment.resized_crop": Field(False, "A random part of the image, scaled to its size (ImageNet's way)."),
    # Model and loss.
    "model.name": Field("lenet5", "The network; seqjax.cnn.names() lists them.", one_of(*NETWORKS)),
    "model.options": Field("", "Further options of the network, such as stem=small,zero_init_residual=True."),
    "model.dtype": Field("float32", "Computation dtype; parameters stay float32.", one_of("float32", "bfloat16")),
    "loss.label_smoothing": Field(0.0, "Share of the target that is spread over all classes.", within(0.0, 1.0)),
    "loss.aux_weight": Field(0.3, "Weight of the auxiliary heads' losses, where the network has such heads.", at_least(0)),
    # Optimiser, schedule, length of the run.
    **recipe.FIELDS,
}

_HE = {  # He et al. 2015, section 4.2: SGD, weight decay 1e-4, a tenth of the rate after 1/2 and 3/4 of the run
    "optimizer.name": "sgd",
    "optimizer.learning_rate": 0.1,
    "optimizer.momentum": 0.9,
    "optimizer.weight_decay": 1e-4,
    "optimizer.clip_norm": 0.0,
    "schedule.name": "step",
    "schedule.decay": 0.1,
}

_IMAGENET = _HE | {
    "data.source": "tfds",
    "data.batch_size": 256,
    "data.eval_batch_size": 256,
    "data.workers": 16,
    "augment.resized_crop": True,
    "augment.flip": True,
    "model.dtype": "bfloat16",
    "optimizer.nesterov": True,
    "schedule.name": "cosine",
    "schedule.decay": 0.5,
    "schedule.final_fraction": 0.0,
}

PRESETS = {
    # scikit-learn's 1,797 digits of 8 x 8: seconds, nothing to download.
    "digits": {
        "data.image_size": 28,
        "data.batch_size": 32,
        "augment.affine_degrees": 8.0,
        "augment.affine_translate": 0.06,
        "augment.affine_scale": 0.08,
        "optimizer.learning_rate": 3e-3,
        "optimizer.clip_norm": 5.0,
        "schedule.warmup_steps": 20,
        "train.epochs": 12.0,
        "train.log_every": 50,
        "train.eval_every": 100,
        "train.checkpoint_every": 100,
    },
    # LeNet-5 on MNIST with small random rotations, shifts and zooms.
    "mnist_lenet5": {
        "data.source": "tfds",
        "data.name": "mnist",
        "data.batch_size": 128,
        "data.eval_batch_size": 500,
        "augment.affine_degrees": 10.0,
        "augment.affine_translate": 0.07,
        "augment.affine_scale": 0.1,
        "optimizer.learning_rate": 3e-3,
        "optimizer.clip_norm": 5.0,
        "optimizer.ema": 0.998,
        "schedule.warmup_steps": 100,
        "schedule.final_fraction": 0.001,
        "train.epochs": 20.0,
        "train.log_every": 200,
        "train.eval_every": 1000,
        "train.checkpoint_every": 500,
    },
    # A small ResNet on MNIST: ResNet-20 of the CIFAR family on 28 x 28.
    "mnist_resnet": {
        "data.source": "tfds",
        "data.name": "mnist",
        "data.batch_size": 128,
        "data.eval_batch_size": 500,
        "model.name": "resnet20_cifar",
        "augment.affine_degrees": 10.0,
        "augment.affine_translate": 0.07,
        "augment.affine_scale": 0.1,
        "optimizer.name": "sgd",
        "optimizer.learning_rate": 0.1,
        "optimizer.momentum": 0.9,
        "optimizer.nesterov": True,
        "optimizer.weight_decay": 5e-4,
        "optimizer.clip_norm": 5.0,
        "optimizer.ema": 0.995,
        "schedule.warmup_steps": 100,
        "schedule.final_fraction": 0.0,
        "train.epochs": 6.0,
        "train.log_every": 100,
        "train.eval_every": 500,
        "train.checkpoint_every": 250,
    },
    # Fashion-MNIST with the modern LeNet; for comparison, its authors list about 0.9 for small convolutional networks.
    "fashion_mnist_lenet5": {
        "data.source": "tfds",
        "data.name": "fashion_mnist",
        "data.batch_size": 128,
        "data.eval_batch_size": 500,
        "augment.flip": True,
        "optimizer.learning_rate": 3e-3,
        "optimizer.clip_norm": 5.0,
        "optimizer.ema": 0.998,
        "schedule.warmup_steps": 100,
        "train.epochs": 20.0,
        "train.log_every": 200,
        "train.eval_every": 1000,
        "train.checkpoint_every": 500,
    },
    # He et al. 2015, table 6: ResNet-20 on CIFAR-10, 64,000 steps of 128. EXPECTED: 8.75 % test error. NOT YET RUN.
    "cifar10_resnet20": _HE
    | {
        "data.source": "tfds",
        "data.name": "cifar10",
        "data.eval_batch_size": 500,
        "model.name": "resnet20_cifar",
        "augment.crop_padding": 4,
        "augment.flip": True,
        "train.steps": 64_000,
        "train.eval_every": 2000,
        "train.checkpoint_every": 1000,
    },
    # ResNet-18 on the ten easy classes of ImageNet, 160 x 160. NOT YET RUN.
    "imagenette_resnet18": _IMAGENET
    | {
        "data.name": "imagenette",
        "data.image_size": 160,
        "data.batch_size": 64,
        "model.name": "resnet18",
        "loss.label_smoothing": 0.1,
        "optimizer.learning_rate": 0.05,
        "schedule.warmup_steps": 200,
        "train.epochs": 40.0,
    },
    # ResNet-50 on ImageNet, 90 epochs (Goyal et al. 2017, arXiv:1706.02677, for rate and warm-up). NOT YET RUN.
    "imagenet_resnet50": _IMAGENET
    | {
        "data.name": "imagenet2012",
        "data.image_size": 224,
        "data.validation_fraction": 0.01,
        "model.name": "resnet50",
        "model.options": "zero_init_residual=True",
        "loss.label_smoothing": 0.1,
        "schedule.warmup_steps": 25_000,
        "train.epochs": 90.0,
        "train.eval_every": 10_000,
        "train.checkpoint_every": 5000,
    },
}


def get_config(name: str = "digits"):
    """The config of a preset.

    Raises:
      ValueError: there is no such preset.
    """
    if name not in PRESETS:
        raise ValueError(f"there is no preset {name!r}; choose one of {', '.join(PRESETS)}")
    return build(FIELDS, PRESETS[name])
