"""ResNets in plain PyTorch with torchvision's names, timm's variant d, and the layout of the Caffe release."""

import torch
from torch import nn


class Block(nn.Module):
    def __init__(self, inputs, inner, stride, *, bottleneck, pooled_shortcut, stride_in_first=False):
        super().__init__()
        outputs = inner * (4 if bottleneck else 1)
        sides = (1, 3, 1) if bottleneck else (3, 3)
        strides = (1, stride, 1) if bottleneck and not stride_in_first else (stride, 1, 1)[: len(sides)]
        widths = (inputs, *(inner,) * (len(sides) - 1), outputs)
        for number, (side, step) in enumerate(zip(sides, strides, strict=True), start=1):
            conv = nn.Conv2d(widths[number - 1], widths[number], side, step, side // 2, bias=False)
            self.add_module(f"conv{number}", conv)
            self.add_module(f"bn{number}", nn.BatchNorm2d(widths[number]))
        self.downsample = nn.Identity()
        if pooled_shortcut and (stride > 1 or inputs != outputs):
            pool = nn.AvgPool2d(2, stride, ceil_mode=True, count_include_pad=False) if stride > 1 else nn.Identity()
            conv = nn.Conv2d(inputs, outputs, 1, bias=False)
            self.downsample = nn.Sequential(pool, conv, nn.BatchNorm2d(outputs))
        elif stride > 1 or inputs != outputs:
            conv = nn.Conv2d(inputs, outputs, 1, stride, bias=False)
            self.downsample = nn.Sequential(conv, nn.BatchNorm2d(outputs))
        self.count = len(sides)

    def forward(self, x):
        y = x
        for number in range(1, self.count + 1):
            y = getattr(self, f"bn{number}")(getattr(self, f"conv{number}")(y))
            y = torch.relu(y) if number < self.count else y
        return torch.relu(y + self.downsample(x))


class ResNet(nn.Module):
    def __init__(self, stage_sizes=(3, 4, 6, 3), *, width=64, classes=1000, bottleneck=True, deep=False, caffe_stem=0):
        super().__init__()
        self.caffe, stem = bool(caffe_stem), caffe_stem or width
        if deep:
            half = width // 2
            self.conv1 = nn.Sequential(
                *(nn.Conv2d(3, half, 3, 2, 1, bias=False), nn.BatchNorm2d(half), nn.ReLU()),
                *(nn.Conv2d(half, half, 3, 1, 1, bias=False), nn.BatchNorm2d(half), nn.ReLU()),
                nn.Conv2d(half, width, 3, 1, 1, bias=False),
            )
        else:
            self.conv1 = nn.Conv2d(3, stem, 7, 2, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(stem)
        inputs = stem
        for stage, blocks in enumerate(stage_sizes, start=1):
            inner = width * 2 ** (stage - 1)
            layer = nn.Sequential()
            for number in range(blocks):
                stride = 2 if stage > 1 and number == 0 else 1
                settings = {"bottleneck": bottleneck, "pooled_shortcut": deep, "stride_in_first": self.caffe}
                layer.append(Block(inputs, inner, stride, **settings))
                inputs = inner * (4 if bottleneck else 1)
            self.add_module(f"layer{stage}", layer)
        self.fc = nn.Linear(inputs, classes)

    def stages(self, x):
        pool = {"padding": 0, "ceil_mode": True} if self.caffe else {"padding": 1}
        x = nn.functional.max_pool2d(torch.relu(self.bn1(self.conv1(x))), 3, 2, **pool)
        outputs = {"stem": x}
        for stage in range(1, 5):
            x = outputs[f"stage{stage}"] = getattr(self, f"layer{stage}")(x)
        features = x.mean((2, 3))
        return outputs | {"features": features, "logits": self.fc(features)}

    def forward(self, x):
        return self.stages(x)["logits"]


def randomize(model):
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, value in model.state_dict().items():
            if not value.is_floating_point():
                continue
            fan_in = value[0].numel() if value.ndim > 1 else 50
            drawn = torch.randn(value.shape, generator=generator) * (2 / fan_in) ** 0.5
            one_based = value.ndim == 1 and name.endswith(("weight", "running_var"))
            value.copy_((drawn + 1).clamp(min=0.3) if one_based else drawn)
    return model.eval()


def as_numpy(stages):
    """NCHW -> NHWC."""
    arrays = {name: value.detach().numpy() for name, value in stages.items()}
    return {name: array.transpose(0, 2, 3, 1) if array.ndim == 4 else array for name, array in arrays.items()}
