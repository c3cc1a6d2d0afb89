"""cifar10-airbench in PyTorch, float64, with the published units: the loss is a sum over the batch.

The names of layers are ours: `load` and `as_numpy` translate arrays only.
"""

import numpy as np
import torch
from torch import nn
from torch.nn import functional


class Network(nn.Module):
    def __init__(self, widths, classes, *, convs=2, logit_scale=None, new_statistics=0.4):
        super().__init__()
        self.widths, self.convs, self.logit_scale = widths, convs, logit_scale or 1 / widths[-1]
        self.whiten = nn.Conv2d(3, 24, 2)
        inputs = 24
        for block, width in enumerate(widths, start=1):
            for layer in range(1, convs + 1):
                self.add_module(f"block{block}_conv{layer}", nn.Conv2d(inputs, width, 3, padding=1, bias=False))
                norm = nn.BatchNorm2d(width, eps=1e-12, momentum=new_statistics)
                norm.weight.requires_grad = False
                self.add_module(f"block{block}_norm{layer}", norm)
                inputs = width
        self.head = nn.Linear(inputs, classes, bias=False)
        self.whiten.weight.requires_grad = False
        self.double()

    def forward(self, images_NCHW, *, trains_whiten_bias=True):
        bias = self.whiten.bias if trains_whiten_bias else self.whiten.bias.detach()
        x = functional.gelu(functional.conv2d(images_NCHW, self.whiten.weight, bias))
        for block in range(1, len(self.widths) + 1):
            conv, norm = (
                [getattr(self, f"block{block}_{kind}{layer}") for layer in range(1, self.convs + 1)]
                for kind in ("conv", "norm")
            )
            first = x = functional.gelu(norm[0](functional.max_pool2d(conv[0](x), 2)))
            for layer in range(1, self.convs):
                x = norm[layer](conv[layer](x))
                x = functional.gelu(x + first if layer == 2 else x)
        return self.head(functional.max_pool2d(x, 3).flatten(1)) * self.logit_scale

    def load(self, variables):
        """Fills the network with Flax arrays."""
        params, statistics = variables["params"], variables["batch_stats"]
        with torch.no_grad():
            for name, module in self.named_children():
                if isinstance(module, nn.BatchNorm2d):
                    module.bias.copy_(as_tensor(params[name]["bias"]))
                    module.running_mean.copy_(as_tensor(statistics[name]["mean"]))
                    module.running_var.copy_(as_tensor(statistics[name]["var"]))
                elif isinstance(module, nn.Conv2d):
                    module.weight.copy_(as_tensor(params[name]["kernel"]).permute(3, 2, 0, 1))
            self.whiten.bias.copy_(as_tensor(params["whiten_bias"]["bias"]))
            self.head.weight.copy_(as_tensor(params["head"]["kernel"]).T)
        return self

    def as_flax(self, of=lambda parameter: parameter):
        """A tree like Flax's params; `of` may return the gradients of the parameters instead."""
        tree = {}
        for name, module in self.named_children():
            if isinstance(module, nn.BatchNorm2d):
                tree[name] = {"bias": as_numpy(of(module.bias))}
            elif isinstance(module, nn.Conv2d):
                kernel = of(module.weight)
                tree[name] = {"kernel": None if kernel is None else as_numpy(kernel).transpose(2, 3, 1, 0)}
        tree["whiten_bias"] = {"bias": as_numpy(of(self.whiten.bias))}
        return tree | {"head": {"kernel": as_numpy(of(self.head.weight)).T}}


def as_tensor(array):
    return torch.tensor(np.asarray(array, np.float64))


def as_numpy(tensor):
    return tensor.detach().numpy().copy()


class Muon:
    """As published, in float64: the original iterates in bfloat16."""

    def __init__(self, kernels, rate, momentum):
        self.rate, self.momentum = rate, momentum
        self.buffers = {kernel: torch.zeros_like(kernel) for kernel in kernels}

    @torch.no_grad()
    def step(self, fraction):
        for kernel, buffer in self.buffers.items():
            buffer.mul_(self.momentum).add_(kernel.grad)
            update = kernel.grad + self.momentum * buffer
            kernel.mul_(len(kernel) ** 0.5 / kernel.norm())
            kernel.sub_(self.rate * fraction * newton_schulz(update.flatten(1)).view_as(kernel))


def newton_schulz(matrix):
    x = matrix / (matrix.norm() + 1e-7)
    for _ in range(3):
        square = x @ x.T
        x = 3.4445 * x + (-4.7750 * square + 2.0315 * square @ square) @ x
    return x


@torch.no_grad()
def six_views(network, images_NCHW):
    """Logits averaged over the image and two shifted copies, each with its mirror image."""

    def mirrored(images_NCHW):
        return (network(images_NCHW) + network(images_NCHW.flip(-1))) / 2

    padded_NCHW = functional.pad(images_NCHW, (1, 1, 1, 1), "reflect")
    shifted_NK = (mirrored(padded_NCHW[:, :, :-2, :-2]) + mirrored(padded_NCHW[:, :, 2:, 2:])) / 2
    return (mirrored(images_NCHW) + shifted_NK) / 2


def loss_of(logits_NK, labels_N):
    return functional.cross_entropy(logits_NK, labels_N, label_smoothing=0.2, reduction="sum")


class Training94:
    """The loop of airbench94_muon, for given batches."""

    def __init__(self, network, *, steps, whiten_bias_steps, decay, bias_rate=0.053, head_rate=0.67, muon_rate=0.24):
        self.network, self.steps, self.whiten_bias_steps, self.step = network, steps, whiten_bias_steps, 0
        modules = dict(network.named_children())
        biases = [module.bias for name, module in modules.items() if "norm" in name]
        kernels = [module.weight for name, module in modules.items() if "_conv" in name]
        groups = [([network.whiten.bias], bias_rate), (biases, bias_rate), ([network.head.weight], head_rate)]
        groups = [{"params": group, "lr": rate, "weight_decay": decay / rate} for group, rate in groups]
        self.sgd = torch.optim.SGD(groups, momentum=0.85, nesterov=True)
        self.rates = [group["lr"] for group in groups]
        self.muon = Muon(kernels, muon_rate, momentum=0.6)

    def update(self, images_NCHW, labels_N):
        """One step; returns the loss before it."""
        loss = loss_of(self.network(images_NCHW, trains_whiten_bias=self.step < self.whiten_bias_steps), labels_N)
        self.network.zero_grad(set_to_none=True)
        loss.backward()
        for number, (group, rate) in enumerate(zip(self.sgd.param_groups, self.rates, strict=True)):
            group["lr"] = rate * (1 - self.step / (self.steps if number else self.whiten_bias_steps))
        self.sgd.step()
        self.muon.step(1 - self.step / self.steps)
        self.step += 1
        return loss.item()


class Training96:
    """The loop of airbench96 for given batches, whose whitening bias trains to the end."""

    def __init__(self, network, *, steps, warmup_steps, batch_size, decay, rate=9.0):
        self.network, self.steps, self.warmup_steps, self.step = network, steps, warmup_steps, 0
        scale = 1024 * (1 + 1 / (1 - 0.85))
        rate, decay = rate / scale, decay * batch_size / scale
        biases = [module.bias for name, module in network.named_children() if "norm" in name]
        kernels = [module.weight for name, module in network.named_children() if "_conv" in name]
        groups = [(biases, 64 * rate), ([*kernels, network.whiten.bias, network.head.weight], rate)]
        groups = [{"params": group, "lr": rate, "weight_decay": decay / rate} for group, rate in groups]
        self.sgd = torch.optim.SGD(groups, momentum=0.85, nesterov=True)
        self.schedule = torch.optim.lr_scheduler.LambdaLR(self.sgd, self.fraction)
        self.slow = {name: value.clone() for name, value in self.floats().items()}

    def fraction(self, step):
        if step < self.warmup_steps:
            return 0.2 + 0.8 * step / self.warmup_steps
        return (self.steps - step) / (self.steps - self.warmup_steps)

    def floats(self):
        """Views of all parameters and running statistics."""
        return {name: value for name, value in self.network.state_dict().items() if value.is_floating_point()}

    def look_ahead(self, kept):
        for name, value in self.floats().items():
            self.slow[name].mul_(kept).add_(value, alpha=1 - kept)
            value.copy_(self.slow[name])

    def update(self, images_NCHW, labels_N):
        """One step; returns the loss before it."""
        loss = loss_of(self.network(images_NCHW), labels_N)
        self.network.zero_grad(set_to_none=True)
        loss.backward()
        self.sgd.step()
        self.schedule.step()
        self.step += 1
        if self.step % 5 == 0:
            self.look_ahead(0.95**5 * (self.step / self.steps) ** 3)
        if self.step == self.steps:
            self.look_ahead(1.0)
        return loss.item()


class Training96Faster(Training96):
    """The loop of airbench96_faster: `proxy` trains in every fourth step, on the images that it chooses."""

    def __init__(self, network, proxy, *, chosen, decay, batch_size, **settings):
        super().__init__(network, decay=decay, batch_size=batch_size, **settings)
        self.chosen, self.proxy = chosen, Training96(proxy, decay=decay, batch_size=batch_size, **settings)
        proxy.whiten.bias.requires_grad = False
        self.choices = []

    def update(self, images_NCHW, labels_N):
        network = self.proxy.network
        losses_N = functional.cross_entropy(network(images_NCHW), labels_N, label_smoothing=0.2, reduction="none")
        rows_C = losses_N.argsort()[-self.chosen :].sort().values
        self.choices.append(rows_C.tolist())
        if self.step % 4 == 0:
            network.zero_grad(set_to_none=True)
            losses_N[rows_C].sum().backward()
            self.proxy.sgd.step()
        self.proxy.schedule.step()
        return super().update(images_NCHW[rows_C], labels_N[rows_C])
