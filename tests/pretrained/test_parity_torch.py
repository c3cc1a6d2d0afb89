"""The weights of torchvision, timm, MadryLab and Hugging Face give PyTorch's numbers.

Run with `pytest -m torch`. The tests are skipped where PyTorch (for Hugging Face: transformers) is not installed.
"""

import numpy as np
import pytest
from safetensors.numpy import load_file

from cifar_jax.pretrained import CATALOG, convert, load, write
from cifar_jax.pretrained.families import TORCHVISION

torch = pytest.importorskip("torch")
import torch_oracle  # noqa: E402 (needs torch)

pytestmark = [pytest.mark.torch, pytest.mark.slow]
SIZES = (97, 224)


def images(size):
    return np.random.default_rng(0).normal(size=(2, size, size, 3)).astype(np.float32)


def assert_parity(name, backbone, stages, stages_of, relative_error):
    """`stages(images_NCHW)` returns the same as `torch_oracle.ResNet.stages`."""
    for size in SIZES:
        with torch.no_grad():
            expected = torch_oracle.as_numpy(stages(torch.tensor(images(size).transpose(0, 3, 1, 2))))
        outputs = stages_of(backbone, images(size))
        errors = {stage: relative_error(outputs[stage], expected[stage]) for stage in expected}
        print(name, size, {stage: f"{error:.1e}" for stage, error in errors.items()})
        assert outputs.keys() == expected.keys()
        assert max(errors.values()) < 1e-5


@pytest.mark.parametrize(
    ("name", "variant", "settings"),
    [
        ("resnet50", "v1.5", {}),
        ("resnet50d", "d", {"deep": True}),
        ("resnet18", "v1.5", {"stage_sizes": (2, 2, 2, 2), "bottleneck": False}),
    ],
)
def test_torchvision_and_timm(name, variant, settings, tmp_path, stages_of, relative_error):
    model = torch_oracle.randomize(torch_oracle.ResNet(**settings))
    torch.save(model.state_dict(), tmp_path / "weights.pth")
    backbone = load(tmp_path / "weights.pth")
    assert (backbone.variant, backbone.width, backbone.num_classes) == (variant, 64, 1000)
    assert_parity(name, backbone, model.stages, stages_of, relative_error)


@pytest.mark.parametrize("name", ["torchvision/resnet18_v1", "torchvision/resnet34_v1", "torchvision/resnet101_v1"])
def test_the_networks_of_torchvision(name, tmp_path, stages_of, relative_error):
    """Random weights of the classes of torchvision, with the architecture of the catalog."""
    models = pytest.importorskip("torchvision.models")
    model = torch_oracle.randomize(getattr(models, name.removeprefix("torchvision/").removesuffix("_v1"))())
    torch.save(model.state_dict(), tmp_path / "weights.pth")
    backbone = load(tmp_path / "weights.pth")
    assert backbone.architecture == {field: getattr(CATALOG[name], field) for field in backbone.architecture}
    with torch.no_grad():
        expected = model(torch.tensor(images(97).transpose(0, 3, 1, 2)))
    assert relative_error(stages_of(backbone, images(97))["logits"], expected) < 1e-5


def test_caffe(tmp_path, stages_of, relative_error):
    settings = {"width": 16, "caffe_stem": 24}
    model = torch_oracle.randomize(torch_oracle.ResNet((2, 2, 2, 2), **settings))
    torch.save(model.state_dict(), tmp_path / "weights.pth")
    backbone = load(tmp_path / "weights.pth")
    assert (backbone.variant, backbone.width, backbone.stem_width) == ("caffe", 16, 24)
    assert_parity("caffe", backbone, model.stages, stages_of, relative_error)


@pytest.mark.parametrize("legacy", [False, True])
def test_robust_checkpoint(legacy, tmp_path, stages_of, relative_error):
    """A training checkpoint: nested, prefixed, with normalization, attacker and optimizer."""
    model = torch_oracle.randomize(torch_oracle.ResNet((2, 1, 1, 1), width=16))
    state = {f"module.model.{name}": value for name, value in model.state_dict().items()}
    state |= {f"module.attacker.model.{name}": value for name, value in model.state_dict().items()}
    state |= {f"module.{name}": torch.ones(3) for name in ("normalizer.new_mean", "attacker.normalize.new_std")}
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9).state_dict()
    checkpoint = {"model": state, "optimizer": optimizer, "epoch": 90, "nat_prec1": torch.tensor(62.8)}
    torch.save(checkpoint, tmp_path / "weights.ckpt", _use_new_zipfile_serialization=not legacy)
    backbone = load(tmp_path / "weights.ckpt")
    assert_parity(f"robust, legacy={legacy}", backbone, model.stages, stages_of, relative_error)


def test_hugging_face(tmp_path, stages_of, relative_error):
    transformers = pytest.importorskip("transformers")
    model = torch_oracle.randomize(
        transformers.ResNetForImageClassification(transformers.ResNetConfig(num_labels=1000))
    )
    model.save_pretrained(tmp_path)

    def stages(x):
        outputs = model(x, output_hidden_states=True)
        names = ("stem", "stage1", "stage2", "stage3", "stage4")
        features = outputs.hidden_states[-1].mean((2, 3))
        return dict(zip(names, outputs.hidden_states, strict=True)) | {"features": features, "logits": outputs.logits}

    backbone = load(tmp_path / "model.safetensors")
    assert backbone.variant == "v1.5"
    assert_parity("Hugging Face", backbone, stages, stages_of, relative_error)


def test_torch_reads_what_we_write(tmp_path):
    model = torch_oracle.randomize(torch_oracle.ResNet((2, 1, 1, 1), width=16))
    torch.save(model.state_dict(), tmp_path / "theirs.pth")
    write(load(tmp_path / "theirs.pth"), tmp_path / "ours.safetensors", naming="torchvision")
    ours = {name: torch.tensor(array) for name, array in load_file(tmp_path / "ours.safetensors").items()}
    fresh = torch_oracle.ResNet((2, 1, 1, 1), width=16)
    report = fresh.load_state_dict(ours, strict=False)
    assert not report.unexpected_keys and all(name.endswith("num_batches_tracked") for name in report.missing_keys)
    for name, value in model.state_dict().items():
        assert torch.equal(value, fresh.state_dict()[name])


def test_a_step_of_training(tmp_path, training_step, relative_error):
    model = torch_oracle.randomize(torch_oracle.ResNet((2, 1, 1, 1), width=16, classes=10)).train()
    torch.save(model.state_dict(), tmp_path / "weights.pth")
    before = {name: value.numpy().copy() for name, value in model.state_dict().items()}
    counts = {}  # values per channel, from which BatchNorm computes a variance

    def count(name):
        return lambda module, inputs, output: counts.update({name: inputs[0].numel() / inputs[0].shape[1]})

    for name, module in model.named_modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.register_forward_hook(count(name))
    images_NHWC = np.random.default_rng(1).normal(size=(4, 64, 64, 3)).astype(np.float32)
    labels_N = np.array([3, 1, 4, 1])
    logits_NK = model.double()(torch.tensor(images_NHWC.transpose(0, 3, 1, 2)).double())
    expected_loss = torch.nn.functional.cross_entropy(logits_NK, torch.tensor(labels_N))
    expected_loss.backward()

    loss, gradients, batch_stats = training_step(load(tmp_path / "weights.pth"), images_NHWC, labels_N)
    assert abs(loss - expected_loss.item()) < 1e-5 * expected_loss.item()
    converted = convert.foreign(gradients, batch_stats, TORCHVISION)
    gradient_errors = {name: relative_error(converted[name], p.grad.numpy()) for name, p in model.named_parameters()}
    statistic_errors = {}
    for name, value in model.named_buffers():
        if name.endswith("num_batches_tracked"):
            continue
        expected = value.numpy()
        if name.endswith("running_var"):  # PyTorch's estimate is unbiased, Flax's is not
            n = counts[name.removesuffix(".running_var")]
            expected = 0.9 * before[name] + (expected - 0.9 * before[name]) * (n - 1) / n
        statistic_errors[name] = relative_error(converted[name], expected)
    print(f"gradients {max(gradient_errors.values()):.1e}, statistics {max(statistic_errors.values()):.1e}")
    assert max(gradient_errors.values()) < 1e-4
    assert max(statistic_errors.values()) < 1e-5
