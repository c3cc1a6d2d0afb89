"""Model 3: ResNet-50 with ImageNet weights, every layer fine-tuned.

    python main.py --config configs/resnet50_finetuned.py --config.model.pretrained=timm/resnet50.a1_in1k

SGD with Nesterov momentum at 128 pixels and mixup 0.1, the resolution and mixup that Big Transfer takes for small
images (Kolesnikov et al. 2020); a head that begins at zero; running statistics with the momentum
max(1 - 10 / steps_per_epoch, 0.9). 97.5 % is published for 20,000 steps at 224 pixels (Grill et al. 2020).

At 224 pixels, activations recomputed to save memory:  --config.model.image_size=224 --config.model.remat=True
Lower rates near the images:                         --config.optimizer.layer_decay=0.7
The head alone for an epoch first:                     --config.schedule.head_epochs=1
"""

from ml_collections import ConfigDict

from configs import default


def get_config() -> ConfigDict:
    config = default.get_config()
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
    config.mesh.cpu_devices = 1  # on two cores, training takes 1.25 times as long on two devices
    return config
