"""The peer of a fine-tuned run: the same weights, images, schedule and augmentation in eager PyTorch.

    python benchmarks/finetune_torch.py --weights thin_resnet50_yahoo.safetensors --data cifar10-images.tar.xz

For weights in the layout of the Caffe release under torchvision's names (docs/weights.md). The run to compare with:

    python main.py --config configs/resnet50_finetuned.py --config.model.pretrained=WEIGHTS
      --config.model.image_size=64 --config.optimizer.learning_rate=0.02 --config.augment.random_resized_crop=0.0
      --config.augment.mixup=0.0 --config.augment.flip=alternating --config.augment.crop_padding=2
      --config.train.epochs=3

Prints one JSON object: test accuracy without test-time augmentation, and the median images/s of the training steps.
"""

import argparse
import json
import math
import statistics
import time

import numpy as np
import torch
from safetensors.torch import load_file
from torch import nn

from cifar_jax.config import default_config
from cifar_jax.data import load, split_train_validation


class Block(nn.Module):
    def __init__(self, inputs: int, width: int, stride: int):
        super().__init__()
        outputs = 4 * width
        self.conv1, self.bn1 = nn.Conv2d(inputs, width, 1, stride, bias=False), nn.BatchNorm2d(width)
        self.conv2, self.bn2 = nn.Conv2d(width, width, 3, 1, 1, bias=False), nn.BatchNorm2d(width)
        self.conv3, self.bn3 = nn.Conv2d(width, outputs, 1, bias=False), nn.BatchNorm2d(outputs)
        projection = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))
        self.downsample = projection if inputs != outputs else nn.Identity()

    def forward(self, x):
        y = torch.relu(self.bn1(self.conv1(x)))
        y = torch.relu(self.bn2(self.conv2(y)))
        return torch.relu(self.bn3(self.conv3(y)) + self.downsample(x))


class ResNet(nn.Module):
    def __init__(self, *, width: int, stem: int, classes: int):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, stem, 7, 2, 3, bias=False), nn.BatchNorm2d(stem)
        inputs = stem
        for stage, blocks in enumerate((3, 4, 6, 3)):
            layer = nn.Sequential()
            for block in range(blocks):
                layer.append(Block(inputs, width * 2**stage, 2 if stage and not block else 1))
                inputs = 4 * width * 2**stage
            self.add_module(f"layer{stage + 1}", layer)
        self.fc = nn.Linear(inputs, classes)
        nn.init.zeros_(self.fc.weight)
        nn.init.zeros_(self.fc.bias)

    def forward(self, x):
        x = nn.functional.max_pool2d(torch.relu(self.bn1(self.conv1(x))), 3, 2, ceil_mode=True)
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        return self.fc(x.mean((2, 3)))


def prepared(images_NHWC: torch.Tensor, size: int) -> torch.Tensor:
    """0..255 minus the mean color, resized, channels-last."""
    x = nn.functional.interpolate(images_NHWC.permute(0, 3, 1, 2).float(), size=(size, size), mode="bilinear")
    return (x - torch.tensor([123.0, 117.0, 104.0])[:, None, None]).contiguous(memory_format=torch.channels_last)


def augmented(images_NHWC: torch.Tensor, flips_N: torch.Tensor, *, padding: int) -> torch.Tensor:
    """Each image shifted by up to `padding` pixels, reflected at the border, and flipped where `flips_N` is true."""
    padded = nn.functional.pad(images_NHWC.permute(0, 3, 1, 2).float(), (padding,) * 4, mode="reflect")
    side, moved = images_NHWC.shape[1], []
    for image, flip in zip(padded, flips_N, strict=True):
        top, left = torch.randint(0, 2 * padding + 1, (2,)).tolist()
        crop = image[:, top : top + side, left : left + side]
        moved.append(crop.flip(-1) if flip else crop)
    return torch.stack(moved).permute(0, 2, 3, 1)


@torch.inference_mode()
def accuracy(network: nn.Module, images, size: int) -> float:
    network.eval()
    parts = zip(
        torch.from_numpy(images.images_NHWC).split(250), torch.from_numpy(images.labels_N).split(250), strict=True
    )
    return sum(int((network(prepared(x, size)).argmax(1) == y).sum()) for x, y in parts) / len(images)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--weights", required=True)
    parser.add_argument("--data", required=True)
    parser.add_argument("--image-size", type=int, default=64)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--learning-rate", type=float, default=0.02)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    torch.manual_seed(arguments.seed)
    config = default_config()
    config.data.dir = arguments.data
    dataset = load(config.data, allow_fallback=False)
    rows, _ = split_train_validation(dataset.train.labels_N, fraction=0.1, seed=0)
    train = dataset.train.take(rows)
    images_NHWC, labels_N = torch.from_numpy(train.images_NHWC), torch.from_numpy(train.labels_N).long()

    tensors = load_file(arguments.weights)
    stem, width = len(tensors["conv1.weight"]), len(tensors["layer1.0.conv1.weight"])
    network = ResNet(width=width, stem=stem, classes=len(dataset.class_names))
    left_out = network.load_state_dict(tensors, strict=False)
    assert set(left_out.missing_keys) == {"fc.weight", "fc.bias"} and not left_out.unexpected_keys, left_out
    network = network.to(memory_format=torch.channels_last)
    kernels = [p for p in network.parameters() if p.ndim > 1]
    others = [p for p in network.parameters() if p.ndim == 1]
    groups = [{"params": kernels, "weight_decay": 1e-4}, {"params": others, "weight_decay": 0.0}]
    optimizer = torch.optim.SGD(groups, lr=arguments.learning_rate, momentum=0.9, nesterov=True)
    batch, steps = 128, len(train) // 128
    total, warmup = arguments.epochs * steps, round(0.05 * arguments.epochs * steps)

    def rate(step: int) -> float:
        return (
            (step + 1) / warmup if step < warmup else (1 + math.cos(math.pi * (step - warmup) / (total - warmup))) / 2
        )

    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, rate)
    first_flips_N, speeds, started = torch.rand(len(train)) < 0.5, [], time.perf_counter()
    for epoch in range(arguments.epochs):
        network.train()
        order_N = torch.randperm(len(train))
        for step in range(steps):
            before = time.perf_counter()
            rows_B = order_N[step * batch : (step + 1) * batch]
            inputs = augmented(images_NHWC[rows_B], first_flips_N[rows_B] ^ bool(epoch % 2), padding=2)
            loss = nn.functional.cross_entropy(network(prepared(inputs, arguments.image_size)), labels_N[rows_B])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            speeds.append(batch / (time.perf_counter() - before))
    result = {
        "test_accuracy": accuracy(network, dataset.test, arguments.image_size),
        "n": len(dataset.test),
        "images_per_second": statistics.median(speeds),
        "images_per_second_quartiles": np.quantile(speeds, [0.25, 0.75]).tolist(),
        "minutes": (time.perf_counter() - started) / 60,
        "settings": vars(arguments)
        | {"weights": arguments.weights.rsplit("/")[-1], "data": arguments.data.rsplit("/")[-1]},
        "versions": {"torch": torch.__version__},
    }
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
