"""Writes docs/benchmarks.md and its figures from the files in benchmarks/results.

python benchmarks/page.py
"""

import json
import re
from pathlib import Path

from cifar_jax.report import style

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results"
IMAGES = ROOT / "docs" / "images"
MACHINES = {"EPYC": "", "Xeon": "xeon/"}

HOW_TO_READ = """\
# Speed

`python benchmarks/page.py` writes this page from the JSON files in [`benchmarks/results`](../benchmarks/results); a
test fails if the two differ. Accuracies are in [results.md](results.md).

## How to read the figures

**Baselines.** The same network, batch size, precision and augmentation run in separate processes, which take turns. A
ratio is that of the medians over all rounds; above 1, cifar_jax is faster. For the details of each comparison, see
[benchmarks/README.md](../benchmarks/README.md).

**Machines.** *EPYC*: two cores of an AMD EPYC. *Xeon*: two cores of an Intel Xeon (Sapphire Rapids), an earlier
revision of the code. Both ran Linux, Python 3.11, JAX 0.10.2 and Flax 0.12.8. The files record date, versions and the
load of the machine at the start.

No figure on this page was measured on a GPU or a TPU."""

MALLOC = """\
On Linux, `main.py` sets options of glibc's allocator for its own process (huge pages, no trimming). PyTorch and Keras
also gain from these options, so both comparisons are shown."""

FROZEN = """\
The frozen backbone is faster because it processes each image once: the features are computed once and cached, while
Keras runs the backbone in every epoch. The images are noise. scikit-learn's time for 45 strengths is extrapolated from
5 of them; at each of the 5 our objective is at or below scikit-learn's."""

LOADING = """
The images of a folder, until all are in memory. The first run decodes them and writes a cache; later runs read the
cache. PyTorch decodes with Pillow in as many worker processes as cores, in every epoch."""

START_UP = """\
Seconds from the command to the start of the first training step. Cold: one start with an empty compilation cache. Warm:
the median of three starts with the cache filled by the cold start."""

TARGETS = """\
Compiled, not run: what the compiler of the device reports, see
[accelerators.md](accelerators.md#will-it-fit-on-colabs-tpu). *Images/s at most* is a bound from the published peaks of
the device, and a real step takes longer. Compile times are those of two CPU cores that were busy with other work."""


def load(name: str) -> dict:
    return json.loads((RESULTS / f"{name}.json").read_text())


def table(header: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    """A Markdown table; all columns but the first are aligned to the right."""
    rule = "|".join([" --- ", *[" ---: "] * (len(header) - 1)])
    return "\n".join([f"| {' | '.join(header)} |", f"|{rule}|", *(f"| {' | '.join(row)} |" for row in rows)])


def link(name: str) -> str:
    return f"[JSON](../benchmarks/results/{name}.json)"


def image_tag(name: str, description: str) -> str:
    return f'<img src="images/benchmark_{name}.png" width="640" alt="{description}">'


def training() -> str:
    rows = []
    cases = {
        "with BatchNorm": "training_speed_batch",
        "without BatchNorm": "training_speed_none",
        "with BatchNorm, our malloc options for all three": "training_speed_batch_same_malloc",
    }
    for machine, folder in MACHINES.items():
        for case, file in cases.items():
            ratios = load(folder + file)["ours_divided_by"]
            ours = load(folder + file)["variants"]["ours"]["images_per_second"]
            speed = f"{sorted(ours)[len(ours) // 2]:.0f} ({min(ours):.0f} to {max(ours):.0f})"
            keras, torch = ratios["keras"]["median"], ratios["torch"]["median"]
            rows.append((case, machine, speed, f"{keras:.1f}", f"{torch:.2f}", link(folder + file)))
    header = ("network", "machine", "images/s (range)", "times Keras 3 (JAX)", "times PyTorch (eager)", "file")
    command = "`python benchmarks/training_speed.py --peer-python peers/bin/python` (batches of 512, five rounds)"
    return f"## Training the CNN\n\n{command}\n\n{table(header, rows)}\n\n{MALLOC}"


def resnet() -> str:
    results = {machine: load(f"{folder}resnet_speed")["cases"] for machine, folder in MACHINES.items()}
    rows = []
    for case in next(iter(results.values())):
        work, size = case.replace("train", "training").split("_")
        for machine, cases in results.items():
            median, ratios = cases[case]["median"], cases[case]["ours_divided_by"]
            speed, keras, torch = f"{median['ours']:,.0f}", f"{ratios['keras']:.1f}", f"{ratios['torch']:.2f}"
            rows.append((f"{work}, {size} pixels", machine, speed, keras, torch))
    header = ("ResNet-50, float32", "machine", "images/s", "times Keras 3 (JAX)", "times PyTorch (eager)")
    files = " and ".join(link(f"{folder}resnet_speed") for folder in MACHINES.values())
    command = f"`python benchmarks/resnet_speed.py --peer-python peers/bin/python` (five rounds; {files})"
    return f"## ResNet-50\n\n{command}\n\n{table(header, rows)}"


def frozen_and_probes() -> str:
    ratios = [load(f"frozen_speed_{size}")["keras_divided_by_ours"] for size in (32, 224)]
    probe = load("probe_speed")["path_of_45"]["seconds"]
    rows = [
        (
            "ten epochs of a frozen ResNet-50, 32 pixels, 2,048 images",
            f"{ratios[0]:.0f} times as fast as Keras 3",
            link("frozen_speed_32"),
        ),
        ("the same, 224 pixels, 256 images", f"{ratios[1]:.1f} times as fast as Keras 3", link("frozen_speed_224")),
        (
            "linear probe, 50,000 x 2,048 features, 45 L2 strengths",
            f"{probe['ours']:.0f} s, {probe['ratio']:.1f} times as fast as scikit-learn",
            link("probe_speed"),
        ),
    ]
    command = "`python benchmarks/frozen_speed.py`, `python benchmarks/probe_speed.py` (Xeon, three rounds)"
    heading = "## Frozen backbones and linear probes"
    return f"{heading}\n\n{command}\n\n{table(('what', 'result', 'file'), rows)}\n\n{FROZEN}"


def prediction() -> str:
    results = load("predict_speed")
    ratios, ours = results["ours_divided_by"], results["variants"]["ours"]["median"]
    files = results["settings"]["images"]
    return f"""\
## Prediction

`python benchmarks/predict_speed.py` (Xeon, five rounds, {link("predict_speed")})

`--mode predict` on {files:,} files of mixed formats, decoding included: {ours:.0f} images/s,
{ratios["keras"]:.1f} times Keras 3's loader and {ratios["keras_threads"]:.1f} times the same loader in threads."""


def loading() -> str:
    results, machine = load("loading"), load("loading")["machine"]
    names = {"decoded": "first run", "cached": "later runs", "torch": "DataLoader of PyTorch, each epoch"}
    rows = []
    for name, title in names.items():
        seconds = results["seconds"][name]
        spread = f"{min(seconds):.1f} to {max(seconds):.1f}"
        rows.append((title, f"{results['median'][name]:.1f} ({spread})"))
    images = f"{results['settings']['images']:,} PNG files of 32 pixels"
    command = f"`python benchmarks/loading.py` ({machine['cores']} cores of an {machine['cpu']}, {link('loading')})"
    return f"## Loading\n\n{command}\n{LOADING}\n\n{table((images, 'seconds (range)'), rows)}"


def streaming() -> str:
    results = load("streaming")
    settings, machine, rows = results["settings"], results["machine"], []
    names = {"stream": "streamed from their files", "device": "all in memory"}
    for name, title in names.items():
        speed, memory = results["speed"][name], results["memory"][name]
        rounds = speed["images_per_second"]
        shown = f"{speed['median']:,.0f} ({min(rounds):,.0f} to {max(rounds):,.0f})"
        peak, first = f"{memory['peak_bytes'] / 1e9:.2f} GB", f"{memory['seconds_to_first_step']:.0f} s"
        rows.append((title, shown, peak, first))
    options = f"--rounds {settings['rounds']} --steps {settings['steps']}"
    header = ("images", "images/s (range)", "peak memory", "first step")
    small, many = f"{settings['images']:,}", f"{settings['many']:,}"
    ratio, decoded = results["stream_divided_by_device"], results["decoded_bytes"] / 1e9
    return f"""\
## Streaming

`python benchmarks/streaming.py {options}` ({machine["cores"]} cores of an {machine["cpu"]},
{link("streaming")})

`data.pipeline=stream` decodes the next batches while one trains. Images/s: `configs/cnn_scratch.py` on {small} PNG
files of 32 pixels; streaming has {ratio:.2f} times the speed of images in memory. Memory and first step: a small CNN on
{many} JPEG files of 64 pixels, with an empty cache; decoded, all splits take {decoded:.2f} GB. The peak is that of a
whole run with one epoch.

{table(header, rows)}"""


def start_up() -> str:
    cases = {"CNN": "start_up_cnn_scratch", "ResNet-50 from a file, 64 pixels": "start_up_resnet50"}
    rows = []
    for case, file in cases.items():
        warm, cold = load(file)["median_warm"]["to_its_start"], load(file)["cold"]["to_its_start"]
        rows.append((case, f"{warm:.1f} s", f"{cold:.1f} s", link(file)))
    header = ("recipe", "warm", "cold", "file")
    command = "`python benchmarks/start_up.py -- --config configs/cnn_scratch.py` (EPYC)"
    return f"## Start-up\n\n{command}\n\n{table(header, rows)}\n\n{START_UP}"


def time_to_accuracy() -> str:
    rows = []
    for name, (title, machine, minutes, accuracies) in validation_curves().items():
        reached = [next((m for m, a in zip(minutes, accuracies, strict=True) if a >= level), None) for level in LEVELS]
        shown = (f"{m:.1f}" if m else "" for m in reached)
        rows.append((title, machine, *shown, f"{accuracies[-1]:.1f} %", link_of_run(name)))
    header = ("run", "machine", *(f"{level} %" for level in LEVELS), "last epoch", "file")
    text = (
        "Minutes until an epoch ends with at least this validation accuracy, without test-time augmentation. CIFAR-10\n"
        "(JPEG q75), 5,000 validation images, one run each (the first seed). The time includes compilation,\n"
        "validation and checkpoints. The fine-tuned runs shared the machine with other jobs."
    )
    image = image_tag("time_to_accuracy", "Validation accuracy against minutes of training")
    return f"## Time to accuracy\n\n{text}\n\n{table(header, rows)}\n\n{image}"


LEVELS = (80, 85, 87, 88, 89)


def validation_curves() -> dict[str, tuple[str, str, list[float], list[float]]]:
    """Of each run of more than one epoch: title, machine, minutes at the end of each epoch, accuracy in percent."""
    curves = {}
    for name, run in load("accuracy").items():
        history = run["history"][0] if run["history"] else {"val_accuracy": []}
        if len(history["val_accuracy"]) > 1:
            seconds = [sum(history["seconds"][: epoch + 1]) for epoch in range(len(history["seconds"]))]
            pixels = "→".join(map(str, run["pixels"])) if isinstance(run["pixels"], list) else run["pixels"]
            title = f"{run['model']}, {pixels} pixels"
            percent = [100 * a for a in history["val_accuracy"]]
            curves[name] = title, run["machine"], [s / 60 for s in seconds], percent
    return curves


def link_of_run(name: str) -> str:
    return f"`{name}` in {link('accuracy')}"


def scaling() -> str:
    results = load("scaling")
    keys = {  # key: its name here, and its value in the recipe
        "train.batch_size": ("batch size", 512),
        "model.widths": ("widths", [48, 128, 192]),
        "model.image_size": ("pixels", 32),
        "mesh.cpu_devices": ("devices", 2),
    }
    recipe = []
    rows = []
    for key, (name, usual) in keys.items():
        for point in results["images_per_second"][key]:
            value = point["value"]
            recipe += [point["images_per_second"]] if value == usual else []
            shown = ", ".join(map(str, value)) if isinstance(value, list) else f"{value:,}"
            rows.append((f"{name}: {shown}", f"{point['images_per_second']:,.0f}"))
    seeds, together, apart = results["seconds_of_runs"].values()
    machine = results["machine"]
    image = image_tag("scaling", "Images per second against batch size, width, pixels and devices")
    return f"""\
## How the cost grows

`python benchmarks/scaling.py --steps {results["settings"]["steps"]}` ({machine["cores"]} cores of an {machine["cpu"]},
{link("scaling")}; other jobs ran at times)

The training step of `configs/cnn_scratch.py` on noise; one key changes at a time. One row of each key is
the recipe itself; these rows range from {min(recipe):.0f} to {max(recipe):.0f} images/s, the noise of this machine.

{table(("CNN", "images/s"), rows)}

{image}

**Seeds.** {seeds} short runs that differ in the seed take {together:.0f} s in one process, which compiles once
(`--config.train.seeds={seeds}`), and {apart:.0f} s as {seeds} commands with a warm compilation cache:
{apart / together:.1f} times as long."""


def targets() -> str:
    rows = []
    files = {path.stem: load(path.stem) for path in RESULTS.glob("target_*.json")}
    for name, results in sorted(files.items(), key=lambda file: recipe_and_target(file[1])):
        step, (recipe, *_) = results["programs"]["training"], recipe_and_target(results)
        batch = results["largest_batch"]["fits"] if "largest_batch" in results else None
        rows.append(
            (
                f"`{recipe}`, {results['image_size']} pixels",
                results["target"],
                f"{step['batch_size']:,}",
                f"{step['memory']['needed'] / 1e9:.2f} GB",
                "not searched" if batch is None else f"{batch:,}" if batch else "none",
                f"{step['roofline']['images_per_second_at_most']:,.0f}",
                f"{step['compile_seconds']:.0f} s",
                link(name),
            )
        )
    columns = ("batch", "memory needed", "largest batch that fits", "images/s at most", "to compile", "file")
    return f"## TPUs and GPUs, compiled\n\n{TARGETS}\n\n{table(('recipe', 'target', *columns), rows)}"


def recipe_and_target(results: dict) -> tuple[str, int, str]:
    """The name of the recipe in the recorded command, the image size in pixels, and the target."""
    recipe = Path(re.search(r"--config (\S+)", results["command"])[1]).stem
    return recipe, results["image_size"], results["target"]


def draw_time_to_accuracy() -> None:
    title = "CIFAR-10 (JPEG q75): validation accuracy, two CPU cores, n = 5,000"
    with style.figure(IMAGES / "benchmark_time_to_accuracy.png", title=title, height=3.2) as figure:
        axes = figure.subplots()
        for color, (title, machine, *curve) in zip(style.PALETTE * 9, validation_curves().values(), strict=False):
            axes.plot(*curve, ".-", color=color, label=f"{title} ({machine})")
        axes.set(xlabel="minutes", ylabel="validation accuracy (%)", xlim=(0, None))
        axes.grid(True)
        axes.legend(fontsize="small")


def draw_scaling() -> None:
    results = load("scaling")["images_per_second"]
    labels = ("batch size", "width of the first block", "pixels", "devices")
    with style.figure(IMAGES / "benchmark_scaling.png", title="Training the CNN, images/s", height=4.2) as figure:
        for axes, label, points in zip(figure.subplots(2, 2).flat, labels, results.values(), strict=True):
            values = [p["value"][0] if isinstance(p["value"], list) else p["value"] for p in points]
            axes.plot(values, [p["images_per_second"] for p in points], ".-", color=style.BLUE)
            axes.set(xlabel=label, ylim=(0, None), xscale="log", xticks=values, xticklabels=map(str, values))
            axes.minorticks_off()
            axes.grid(True)


SECTIONS = (
    training,
    resnet,
    time_to_accuracy,
    frozen_and_probes,
    prediction,
    loading,
    streaming,
    start_up,
    scaling,
    targets,
)


def page() -> str:
    """The text of docs/benchmarks.md."""
    return "\n\n".join([HOW_TO_READ, *(section() for section in SECTIONS)]) + "\n"


def main() -> None:
    (ROOT / "docs" / "benchmarks.md").write_text(page())
    draw_time_to_accuracy()
    draw_scaling()
    print("written: docs/benchmarks.md")


if __name__ == "__main__":
    main()
