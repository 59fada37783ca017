"""The tables of speed and memory: every cell comes from a JSON file in benchmarks/results."""

import json
import math
from collections.abc import Callable, Iterable

from benchmarks import common

SHAPES = ("32,64,128,128", "16,256,256,256", "64,35,650,650", "64,100,512,512", "1,200,64,64", "128,784,1,128")
CELL_NAMES = {"lstm": "LSTM", "gru": "GRU", "rnn": "vanilla"}
WHATS = ("forward", "training")
JAX = ("flax.linen", "flax.nnx", "dm-haiku", "equinox", "keras on jax")


def saved(name: str) -> dict:
    """A file of benchmarks/results."""
    return json.loads((common.RESULTS / f"{name}.json").read_text(encoding="utf-8"))


def table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """A table in Markdown."""
    head = list(head)
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def three(value: float) -> str:
    """Three significant digits, without an exponent."""
    return f"{float(f'{value:.3g}'):g}"


def mean(values: Iterable[float]) -> float:
    """Geometric."""
    logs = [math.log(value) for value in values]
    return math.exp(sum(logs) / len(logs))


def over_ours() -> dict[tuple[str, str], dict[str, float]]:
    """(cell, what) -> library -> geometric mean of its time over ours; a library's faster form if it has two."""
    return {key: {name: min(forms.values()) for name, forms in found.items()} for key, found in _all_forms().items()}


def _all_forms() -> dict[tuple[str, str], dict[str, dict[str, float]]]:
    """(cell, what) -> library -> its form of the cell -> geometric mean of its time over ours."""
    result = {}
    for cell in CELL_NAMES:
        for what in WHATS:
            cases = [case["milliseconds"] for case in saved("peers")["cases"] if (case["cell"], case["what"]) == (cell, what)]
            found = result.setdefault((cell, what), {})
            for name in cases[0]:
                library = next((known for known in ("torch", *JAX) if name.startswith(known)), None)
                if library:
                    form = "optimized" if "Optimized" in name else ""
                    ratio = mean(case[name]["min"] / case["seqjax"]["min"] for case in cases)
                    found.setdefault(library, {})[form] = ratio
    return result


def peers() -> str:
    """Every library's time over ours, and the best JAX library's at each shape."""
    means, rows = saved("peers")["geometric_means"], []
    for (cell, what), found in _all_forms().items():
        row = [f"{CELL_NAMES[cell]} {what}"]
        for library in ("torch", *JAX):
            forms = sorted(found.get(library, {}).items())
            row.append(", ".join(f"{form} {ratio:.2f}".strip() for form, ratio in forms) or "-")
        rows.append([*row, f"{means[what][cell]['best_jax_peer_over_ours']['min']:.2f}"])
    return table(["", "torch", "flax.linen", "flax.nnx", "dm-haiku", "equinox", "Keras on JAX", "best JAX library at each shape"], rows)


def peers_summary() -> str:
    """The table, summarised in words."""
    cases, where = saved("peers")["cases"], saved("peers")["where"]
    best = [case["min"]["best_jax_peer_over_ours"] for case in cases]
    torch = {(case["cell"], case["what"], case["shape"]): case["min"]["ours_over_torch"] for case in cases}
    (cell, what, shape), closest = max(torch.items(), key=lambda item: item[1])
    jax, than_torch = (sum(ratio > 1 for ratio in best), sum(ratio < 1 for ratio in torch.values()))
    return (
        f"seqjax is faster than the best JAX library in {jax} of {len(cases)} cases ({min(best):.2f} to {max(best):.1f} times),\n"
        f"and faster than torch in {than_torch} of {len(cases)}. The closest is torch's {CELL_NAMES[cell]} at {shape}, {what}, "
        f"where ours\ntakes {closest:.2f} of its time. Measured on {where['cores']} cores of an {where['cpu']}, "
        f"jax {where['jax']}, torch {where['torch']},\nflax {where['flax']}, dm-haiku {where['dm-haiku']}, "
        f"equinox {where['equinox']}, keras {where['keras']}."
    )


def _spread(shape: str) -> str:
    return shape.replace(",", ", ")


def engines() -> str:
    """The ways to run a step with XLA's operations, in milliseconds; auto's choice is bold."""
    rows = []
    for cell in CELL_NAMES:
        for what in WHATS:
            cases = {case["shape"]: case for case in saved("engines")["cases"] if (case["cell"], case["what"]) == (cell, what)}
            for engine in cases[SHAPES[0]]["milliseconds"]:
                row = [f"{cell} {what}, {engine}"]
                for shape in SHAPES:
                    text = three(cases[shape]["milliseconds"][engine]["min"])
                    row.append(f"**{text}**" if cases[shape]["auto"] == engine else text)
                rows.append(row)
    return table(["", *SHAPES], rows)


def engines_native() -> str:
    """The native and the fused engine, in milliseconds, and the geometric means of their ratios."""
    found, ratios = {}, {}
    for case in saved("engines_native")["cases"]:
        times = {name: row["min"] for name, row in case["milliseconds"].items()}
        fused = times[_before(case)]
        found[case["shape"], case["cell"], case["what"]] = f"{three(times['native'])} / {three(fused)}"
        ratios.setdefault((case["cell"], case["what"]), []).append(fused / times["native"])
    columns = [(cell, what) for cell in CELL_NAMES for what in WHATS]
    rows = [[_spread(shape), *(found[shape, cell, what] for cell, what in columns)] for shape in SHAPES]
    means = ["**geometric mean of the gain**", *(f"**{mean(ratios[column]):.2f}**" for column in columns)]
    return table(["B, T, D, H", *(f"{cell} {what}" for cell, what in columns)], [*rows, means])


def _before(case: dict) -> str:
    """Auto's choice without the native engine: the rule of seqjax.engines.fused on a CPU."""
    batch, _, _, hidden = map(int, case["shape"].split(","))
    if batch < 8 and case["cell"] != "gru":
        return "fused apart"
    return "fused columns" if case["cell"] == "lstm" and hidden >= 256 else "fused rows"


def processes() -> str:
    """One run in one, two and four processes on a machine."""
    rows = [
        [count, f"{row['loss over the last 10 steps']:.8f}", f"{round(row['tokens per second'], -2):,.0f}", f"{row['CPU seconds']:.0f}"]
        for count, row in saved("processes")["processes"].items()
    ]
    return table(["processes", "loss over steps 71 to 80", "tokens a second", "CPU seconds"], rows)


def _gpu(name: str, engines: tuple[str, ...]) -> Callable[[], str]:
    def draw() -> str:
        rows = {}
        for part in ("layers", "shapes", "kernels"):
            for case in saved(name)["parts"].get(part, {}).get("cases", ()):
                if case.get("what") in WHATS and "min" in case:
                    dtype = {"float32": "f32", "bfloat16": "bf16"}[case["dtype"]]
                    key = f"{case['cell']} {_spread(case['shape'])} {dtype} {case['what']}"
                    rows.setdefault(key, {})[case["engine"]] = three(case["min"])
        return table(["", *engines], ([key, *(row.get(engine, "-") for engine in engines)] for key, row in rows.items()))

    return draw


OURS = ("torch", "flax", "scan", "fused rows", "fused columns", "fused apart")
CNNS = {
    "lenet5": "LeNet-5, 32 x 32",
    "vgg11": "VGG-11, 32 x 32",
    "resnet18": "ResNet-18, 64 x 64",
    "googlenet": "GoogLeNet, 64 x 64",
    "mobilenet_v1": "MobileNet v1, 64 x 64",
}
TEXTS = {
    "classifier": "classifier: BiLSTM 128, attention pooling, B = 64, T = 235",
    "tagger": "tagger: char-CNN, BiLSTM 192, B = 32, T = 24",
    "tagger_crf": "the same with the CRF",
    "luong_feeding": "GRU 512, Luong, input feeding, B = 64, S = T = 16, V = 8,000",
    "luong": "the same without feeding",
    "bahdanau": "Bahdanau",
    "no_attention": "no attention",
}


def cnn_training() -> str:
    """A whole training step of the classic CNNs, in milliseconds."""
    forms, result = ("ours", "torch", "torch channels_last", "plain lax"), saved("cnn_training")
    rows = []
    for name, label in CNNS.items():
        times = {form: row["min"] for form, row in result["cases"][name]["milliseconds"].items()}
        row = [f"**{three(times[form])}**" if times[form] == min(times.values()) else three(times[form]) for form in forms]
        row[-1] += f" (Flax's own layers: {three(times['flax example'])})" if "flax example" in times else ""
        rows.append([label, *row])
    means = result["geometric_mean_of_ours_over"]
    rows.append(["geometric mean of ours over theirs", "", *(f"{means[form]:.2f}" for form in forms[1:])])
    return table(["", "ours", "torch", "torch, channels_last", "same module on XLA's convolutions and pools"], rows)


def text_training() -> str:
    """A whole training step of the models of text, in milliseconds."""
    forms, result = ("ours", "torch", "torch padded"), saved("text_training")
    rows = []
    for name, label in TEXTS.items():
        times = result["cases"][name]["milliseconds"]
        lowest = min(times[form]["min"] for form in forms)
        shown = {form: three(times[form]["min"]) for form in forms}
        rows.append([label, *(f"**{shown[form]}**" if times[form]["min"] == lowest else shown[form] for form in forms)])
    means = result["geometric_mean_of_ours"]
    rows.append(["geometric mean of ours over theirs", "", *(f"{means[f'min over {form}']:.2f}" for form in forms[1:])])
    return table(["", "ours", "torch, packed sequences", "torch, padded"], rows)


def truncation() -> str:
    """Full and truncated backpropagation side by side."""
    rows = []
    for name, way in saved("truncation")["ways"].items():
        loss = f"{way['loss after training']:.4f}" if way["loss after training"] < 1 else f"{way['loss after training']:.3f}"
        cosines = ", ".join(f"{min(way[f'cosine {when} training'], 1):.2f}".replace("1.00", "1") for when in ("before", "after"))
        memory = three(way["temporary_bytes"] / 1e6)
        rows.append([name, three(way["milliseconds"]["min"]), memory, cosines, f"**{loss}**" if way["loss after training"] < 1 else loss])
    head = ["", "step, ms", "memory, MB", "cosine to the full gradient, before and after training"]
    return table([*head, "loss after 1,000 steps (a guess 2.079)"], rows)


def spectrum() -> str:
    """How far an untrained cell's gradient reaches, and the lengths at which it learns recall."""
    rows, lengths = [], ("5", "10", "20", "40", "80", "160")
    for name, cell in saved("spectrum")["cells"].items():
        solved, largest = cell["seeds that solve it, by length"], sum(cell["exponents"]) / len(cell["exponents"])
        reach = f"{cell['horizon']:.1f}" if cell["horizon"] < 10 else f"{cell['horizon']:.0f}"
        label = "LSTM, forget bias 1" if name == "lstm, gain 1.0" else name.replace("gain", "orthogonal weights times")
        rows.append([label, f"{largest:.3f}", reach, *(f"{solved[length]} of 3" for length in lengths)])
    return table(["64 units", "largest exponent", "horizon, steps", *lengths], rows)


def speech_streaming() -> str:
    """Streaming recognition on one core."""
    rows = []
    for name, row in saved("speech_streaming")["measured"].items():
        cell, size, layers = name.split(",")[0].split()[0], *name.split(",")[0].split()[1].split("x")
        if row["block_seconds"] == 0.04 or (layers == "5" and row["block_seconds"] == 0.2):
            rows.append([
                f"{cell.upper()}, {size} x {layers}", f"{row['parameters'] / 1e6:.2g} million", f"{row['block_seconds'] * 1000:.0f} ms",
                f"{three(row['milliseconds'])} ms", f"{row['latency_milliseconds']:.1f} ms", f"{row['real_time_factor']:.3f}",
            ])  # fmt: skip
    return table(["cell, size x layers", "parameters", "block", "time of a block", "latency", "real-time factor"], rows)


DATA = {
    "language_model": "windows 32 x 64",
    "image_classification": "images in memory",
    "text_classification": "buckets",
    "tagging": "buckets of words, characters and tags",
    "translation": "buckets of both sides",
}


def data_wait() -> str:
    """The processor's time for a batch, and the waiting of the default runs, the lowest and highest of two."""
    rows = []
    for name, row in saved("data_wait")["experiments"].items():
        batch, waiting = row["microseconds_per_batch"], row["share_of_waiting"]
        low, high = 100 * waiting["min"], 100 * (2 * waiting["median"] - waiting["min"])
        times = (batch[what]["min"] for what in ("whole", "one_shard"))
        shown = (f"{time:.0f}" if time >= 10 else f"{time:.1f}" for time in times)
        rows.append([f"{name}, {DATA[name]}", *shown, f"{row['milliseconds_per_step']:.0f}", f"{low:.1f} to {high:.1f} %"])
    return table(["default run of", "microseconds a batch", "of one of four shards", "ms a step", "waiting"], rows)


TABLES: dict[str, Callable[[], str]] = {
    "peers": peers,
    "peers summary": peers_summary,
    "engines": engines,
    "engines native": engines_native,
    "processes": processes,
    "gpu": _gpu("gpu", (*OURS, "associative", "pallas")),
    "gpu h100": _gpu("gpu_h100", (*OURS, "cudnn", "associative")),
    "gpu h200": _gpu("gpu_h200", (*OURS, "cudnn", "associative")),
    "cnn training": cnn_training,
    "text training": text_training,
    "truncation": truncation,
    "spectrum": spectrum,
    "speech streaming": speech_streaming,
    "data wait": data_wait,
}
