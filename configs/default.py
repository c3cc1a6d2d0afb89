"""Every configuration key, declared once, with its unit and what it does.

A recipe starts from `get_config()` here and changes only what differs. Values are typed (never None), so that
every key can be set on the command line: `--config.optimizer.learning_rate=0.1`. Ranges are checked by
`cifar_jax/runs/config.py` before anything is compiled.
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    config = ConfigDict()

    config.data = data = ConfigDict()
    data.name = "cifar10"  # cifar10, cifar100, shapes (drawn by the program) or folder (any image folder)
    data.dir = ""  # TFDS directory, Toronto archive, image folder or archive of one, .npz; '' = $CIFAR_JAX_DATA
    data.fallback = "shapes"  # what a single process trains on where `name` cannot be had; '' = that is an error
    data.pipeline = "device"  # device: the whole split lives on the devices; the only one so far
    data.image_size = 0  # pixels: images of a folder are resized to this square on decoding; 0 = as stored
    data.validation_fraction = 0.1  # of the training images, stratified; 45k/5k for CIFAR
    data.split_seed = 0  # seed of the train/validation split, apart from train.seed so that seeds share a split
    data.limit = 0  # use at most this many images of each split (stratified); 0 = all

    config.augment = augment = ConfigDict()
    augment.flip = "alternating"  # none, random, or alternating: every image mirrored in every second epoch
    augment.crop_padding = 2  # pixels of reflection around the image before a crop back to its size; 0 = off
    augment.cutout = 0  # side in pixels of a square set to the mean color; 0 = off
    augment.random_resized_crop = 0.0  # least share of the area of a random part that is resized to the input; 0 = off
    augment.mixup = 0.0  # alpha of the Beta distribution of mixup; 0 = off

    config.model = model = ConfigDict()
    model.name = "cnn"  # cnn or resnet
    model.image_size = 0  # pixels: images are resized to this inside the compiled step; 0 = as loaded
    model.dtype = "auto"  # float32, bfloat16, or auto: bfloat16 on accelerators, float32 on CPU
    # cnn:
    model.widths = (64, 128, 256)  # channels of the blocks; each block halves the image
    model.convs_per_block = 2
    model.norm = "batch"  # batch or none
    model.whitening = True  # first layer: frozen filters that whiten 2x2 patches of the training images
    # resnet; pretrained weights bring the first four of these along:
    model.variant = "v1.5"  # v1 (Keras), v1.5 (torchvision, timm, Hugging Face), v2 (Keras V2), d (timm), bit
    model.stage_sizes = (3, 4, 6, 3)  # blocks of each stage; (3, 4, 6, 3) bottlenecks are a ResNet-50
    model.width = 64  # channels of the stem
    model.block = "bottleneck"  # bottleneck or basic
    model.stem = ""  # imagenet, deep, or small (3x3 without stride, for 32 pixels); '' = the variant's own
    model.remat = False  # compute activations again for the gradient: less memory, a third more time
    model.pretrained = ""  # a name such as torchvision/resnet50_v1, or a file; '' = random initial weights
    # What pretrained weights are given: (x - mean) / std of RGB values in 0..1. () = what they were trained on;
    # anything else is for trying out what a mistake costs, with check_input off.
    model.input_mean = ()
    model.input_std = ()
    model.check_input = True  # refuse images on another scale than the weights were trained on
    model.freeze_statistics = True  # of frozen BatchNorm layers; False: use each batch's own, to try what that costs

    config.optimizer = optimizer = ConfigDict()
    # sgd (Nesterov momentum), adamw, muon (3x3 kernels by Muon, the rest by adamw), or lbfgs: a linear probe on
    # cached features, its L2 strength chosen on the validation images, refitted on training and validation images
    optimizer.name = "sgd"
    optimizer.learning_rate = 0.1  # peak
    optimizer.momentum = 0.9  # sgd: Nesterov momentum; adamw: b1; muon: beta
    optimizer.weight_decay = 5e-4  # coupled for sgd, decoupled for adamw and muon; never on norms and biases
    optimizer.adam_learning_rate = 2e-3  # muon: the peak for everything but the 3x3 kernels
    # (regular expression of the parameter's path, multiplier of its learning rate): the first that matches decides,
    # 0 freezes, and a parameter that none matches is an error.
    optimizer.rules = ((".*", 1.0),)
    optimizer.layer_decay = 1.0  # the rate is multiplied by this for each stage away from the head
    optimizer.clip_norm = 0.0  # global norm of the gradient; 0 = off
    optimizer.accumulate_steps = 1  # batches whose gradients are averaged into one update

    config.schedule = schedule = ConfigDict()
    schedule.name = "cosine"  # cosine, linear, step or constant, after a linear warm-up
    schedule.final_fraction = 0.0  # of the peak, at the end of cosine and linear
    schedule.warmup_steps = 0  # at most one of the three warm-up keys may be set
    schedule.warmup_epochs = 0.0
    schedule.warmup_percent = 0.0  # of all steps
    schedule.head_epochs = 0.0  # at the start, only the head trains for so long
    schedule.decay_steps = ()  # step: where the rate is multiplied by decay_factor; one of these three
    schedule.decay_epochs = ()
    schedule.decay_percent = ()
    schedule.decay_factor = 0.1

    config.train = train = ConfigDict()
    train.epochs = 20
    train.batch_size = 512  # global; must divide by the number of devices
    train.seed = 0  # of initial weights, order and augmentation
    train.seeds = 1  # how many runs, with train.seed, train.seed + 1, ...; the result is their mean and interval
    train.label_smoothing = 0.1
    train.cached_features = False  # of a frozen backbone: each image passes it once, and only the head is trained
    train.ema_decay = 0.0  # of the weights, per update; evaluation uses the average; 0 = off
    train.log_every_steps = 0  # steps between two host reads of the metrics; 0 = ten times an epoch
    train.steps_per_dispatch = 0  # steps in one compiled call; 0 = 1 on CPU, the logging interval elsewhere

    config.evaluation = evaluation = ConfigDict()
    evaluation.batch_size = 512  # rounded up to a multiple of the devices
    evaluation.tta = False  # average over mirror images and one-pixel shifts

    config.checkpoint = checkpoint = ConfigDict()
    checkpoint.every_steps = 0  # besides the end of each epoch; 0 = only there
    checkpoint.keep = 2  # latest checkpoints kept, besides the best by validation accuracy

    config.mesh = mesh = ConfigDict()
    mesh.devices = 0  # how many devices to use, the first of them; 0 = all
    mesh.cpu_devices = 0  # CPU only: devices to split it into; 0 = one a core, as far as they divide the batch
    mesh.compilation_cache = True  # keep compiled programs under ~/.cache/cifar_jax

    # --mode ledger: what is mended in turn; each a name and the keys it changes, (name, ((key, value), ...))
    config.repairs = ()

    return config
