"""Model 3: ResNet-50, all layers fine-tuned.

    cifar-jax --config resnet50_finetuned --config.model.pretrained=timm/resnet50.a1_in1k

SGD with Nesterov momentum. The resolution (128 pixels) and mixup (0.1) are those of Big Transfer for small
images (Kolesnikov et al. 2020). The head starts at zero. The momentum of the running statistics is
max(1 - 10 / steps_per_epoch, 0.9).

Expected: 97.5 % is published for 20,000 steps at 224 pixels (Grill et al. 2020). Not measured here with
ImageNet weights.

224 pixels, with less memory:     --config.model.image_size=224 --config.model.remat=True
Lower rates far from the head:    --config.optimizer.layer_decay=0.7
Only the head in the first epoch: --config.schedule.head_epochs=1
Small images first, as on a CPU:  --config.model.image_size=96 '--config.train.image_sizes=(48,64,96)'
"""

from ml_collections import ConfigDict

from cifar_jax.config import default_config


def get_config() -> ConfigDict:
    config = default_config()
    config.model.name = "resnet"
    config.model.image_size = 128
    config.augment.flip = "random"
    config.augment.crop_padding = 0
    config.augment.random_resized_crop = 0.25
    config.augment.mixup = 0.1
    config.optimizer.learning_rate = 0.01
    config.optimizer.weight_decay = 1e-4
    config.schedule.warmup_percent = 5.0
    config.train.label_smoothing = 0.0
    config.train.epochs = 20
    config.train.batch_size = 128
    config.evaluation.batch_size = 128
    config.mesh.cpu_devices = 1  # with two devices on two cores, training takes 1.25 times as long
    return config
