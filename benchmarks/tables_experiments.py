"""The tables of the experiments' own pages: every figure comes from a saved run or a saved JSON file, or is cited beside it."""

import json
import re
import statistics
from collections.abc import Callable, Sequence

from benchmarks.tables_runs import config, evaluations, minutes, tested, text
from benchmarks.tables_speed import saved, table


def percent(share: float, digits: int = 2) -> str:
    """A share in per cent.

    Example:
      >>> percent(0.9605), percent(0, 0)
      ('96.05 %', '0 %')
    """
    return f"{100 * share:.{digits}f} %"


def with_interval(shares: Sequence[float], digits: int = 2) -> str:
    """(share, low, high) in per cent.

    Example:
      >>> with_interval((0.966, 0.946, 0.979), 1)
      '96.6 % (94.6 to 97.9)'
    """
    low, high = (f"{100 * share:.{digits}f}" for share in shares[1:])
    return f"{percent(shares[0], digits)} ({low} to {high})"


def cpu_minutes(run: str) -> float:
    """User and system time of a run's training commands, all of its sessions together.

    Raises:
      ValueError: the shell's `time` is not in what was kept.
    """
    found = re.findall(r"^(?:user|sys)\s+(\d+)m([\d.]+)s", text(run, "train.txt"), flags=re.MULTILINE)
    if not found:
        raise ValueError(f"{run}/train.txt has no times of the command")
    return sum(int(minute) + float(second) / 60 for minute, second in found)


def the_one(scores: dict[str, dict], beginning: str) -> dict:
    """The scores of the one baseline whose name begins so."""
    (found,) = (row for name, row in scores.items() if name.startswith(beginning))
    return found


def music() -> str:
    """JSB chorales beside baselines and what was published."""
    rows = []
    for run, label in ("jsb_notes", "note by note"), ("jsb", "pitches independent"):
        model, last = tested(run)["model"], evaluations(run)[-1]
        accuracy = percent(model["frame_accuracy"], 1)
        loss = f"{model['loss']:.3f}"
        loss = f"**{loss}**" if run == "jsb_notes" else loss
        validation = f"{last['best']:.3f}"
        label = f"{label}, `{run}` ({last['step']:,} steps)"
        rows.append([label, loss, f"{model['loss_with_first']:.3f}", accuracy, validation, f"{minutes(run):.0f}, busy"])
    for name, label in ("3-gram of chords", "trigram of chords"), ("pitch frequencies", ""), ("last frame again", ""):
        row = tested("jsb")[name]
        first = f"{row['loss_with_first']:.3f}" if "loss_with_first" in row else ""
        accuracy = percent(row["frame_accuracy"], 1) if "frame_accuracy" in row else ""
        rows.append([label or name, f"{row['loss']:.3f}", first, accuracy, "", ""])
    rows.append(["published, pitches independent: TCN / GRU / LSTM (Bai et al. 2018)", "8.10 / 8.43 / 8.45", "", "", "", ""])
    return table(["JSB test, nats a frame", "loss", "loss with first", "frame accuracy", "validation loss", "minutes"], rows)


FORECASTS = {
    "seasonal": "24 hours",
    "mackey_glass": "24 steps",
    "lorenz": "24 steps",
    "beijing": "24 hours",
    "temperatures": "7 days",
    "sunspots": "24 months",
    "airline": "12 months",
}


def forecasting() -> str:
    """The forecasts beside baselines; bold where the model falls short: a better baseline, coverage 5 points off, 10 % above the best."""
    rows = []
    for preset, horizon in FORECASTS.items():
        scores = tested(f"forecast_{preset}")
        model, best, run = scores["model"], scores.get("best possible"), f"forecast_{preset}"

        def beside(name: str, model: dict = model, scores: dict = scores) -> str:
            row = scores.get(name)
            shown = f"{_four(row['crps'])}, {row['mase']:.3f}" if row else "-"
            return f"**{shown}**" if row and row["crps"] < model["crps"] else shown

        coverage = percent(model["coverage_80"], 1)
        coverage = f"**{coverage}**" if abs(model["coverage_80"] - 0.8) > 0.05 else coverage
        above = ""
        if best:
            share = model["crps"] / best["crps"] - 1
            above = f"{_four(best['crps'])} ({f'**{percent(share, 1)} above**' if share > 0.1 else f'{percent(share, 1)} above'})"
        rows.append([
            f"`{preset}`", horizon, _four(model["crps"]), f"{model['mase']:.3f}", coverage, beside("AutoARIMA"), beside("ETS"),
            beside("linear"), above, f"{minutes(run):.1f}",
        ])  # fmt: skip
    head = ["preset", "horizon", "CRPS", "MASE", "coverage", "AutoARIMA: CRPS, MASE", "ETS", "linear", "best possible CRPS", "minutes"]
    return table(head, rows)


def _four(value: float) -> str:
    """Four significant digits, three below 1.

    Example:
      >>> _four(30.2912), _four(0.05012), _four(14.2)
      ('30.29', '0.0501', '14.20')
    """
    return f"{value:#.4g}" if value >= 1 else f"{value:.4f}" if value < 0.1 else f"{value:.3f}"


def forecasting_seeds() -> str:
    """The forecasts of three seeds, the first of them the run of the table above."""
    rows = []
    for preset in ("seasonal", "temperatures", "airline"):
        others = [json.loads(text(f"forecast_{preset}_seeds", f"seed{seed}.json"))["scores"] for seed in (1, 2)]
        values = [scores["model"]["crps"] for scores in (tested(f"forecast_{preset}"), *others)]
        digits = 2 if values[0] >= 10 else 3
        listed = ", ".join(f"{value:.{digits}f}" for value in values)
        rows.append([f"`{preset}`", listed, f"{statistics.mean(values):.{digits}f}", f"{statistics.stdev(values):.{digits}f}"])
    return table(["preset", "CRPS of seeds 0, 1, 2", "mean", "standard deviation"], rows)


def _folds(run: str) -> dict[str, dict]:
    return json.loads(text(run, "folds_test.json"))["scores"]


def promoters() -> str:
    """Promoters, folds of groups."""
    names = {
        "model": "GRU over motif detectors",
        "position weight matrices": "position weight matrices",
        "bases by position, logistic regression": "bases by position, logistic regression",
        "k-mers, logistic regression": "k-mers, logistic regression",
    }
    scores = _folds("promoters")
    rows = [[label, with_interval(scores[name]["accuracy"], 1), f"{scores[name]['auroc']:.3f}"] for name, label in names.items()]
    return table(["promoters, 75 folds of groups, 106 answers", "accuracy (95 % interval)", "AUROC"], rows)


def dna_hmm() -> str:
    """Genes in sequences of a hidden Markov model, beside its exact posterior."""
    names = {
        "exact posterior": "exact posterior",
        "model": "convolution and LSTM in both directions",
        "21 bases, logistic regression": "21 bases around, logistic regression",
        "always background": "always background",
    }
    scores = tested("dna_hmm")
    rows = [[label, with_interval(scores[name]["accuracy"]), f"{scores[name]['auroc']:.4g}"] for name, label in names.items()]
    return table(["`hmm`, 1,000 test sequences, 200,000 bases", "accuracy (95 % interval)", "AUROC"], rows)


def splice() -> str:
    """Splice junctions in ten folds, three seeds and their mean."""
    scores = _folds("splice")
    names = {
        "mean of 3 seeds": "GRU over motif detectors, three seeds averaged",
        "seeds": "",
        "bases by position, logistic regression": "bases by position, logistic regression",
        "position weight matrices": "position weight matrices",
        "k-mers, logistic regression": "k-mers, logistic regression",
        "most frequent class": "most frequent class",
    }
    rows = []
    for name, label in names.items():
        if name == "seeds":
            seeds = [100 * scores[f"model, seed {seed}"]["accuracy"][0] for seed in range(3)]
            spread = f"(mean {statistics.mean(seeds):.2f}, standard deviation {statistics.stdev(seeds):.2f})"
            rows.append(["one seed: 0, 1, 2", f"{', '.join(f'{seed:.2f}' for seed in seeds)} % {spread}", "", ""])
            continue
        row, f1 = scores[name], (f"{scores[name][f'f1_{kind}']:.3f}" for kind in ("EI", "IE", "N"))
        accuracy = with_interval(row["accuracy"])
        accuracy = re.sub(r"^(.*?%)", r"**\1**", accuracy) if name == "mean of 3 seeds" else accuracy
        rows.append([label, accuracy, ", ".join(f1), f"{row['auroc']:.3f}"])
    return table(["splice junctions, 10 folds, 2,758 answers", "accuracy (95 % interval)", "F1 of EI, IE, N", "AUROC"], rows)


def captioning() -> str:
    """Captions of scenes beside the nearest images' and the most frequent one."""
    names = {
        "model": "`scenes`",
        "nearest image in features": "nearest image in the encoder's features",
        "nearest image in pixels": "nearest image in pixels",
        "most frequent caption": "most frequent caption",
    }
    rows = []
    for name, label in names.items():
        row = tested("scenes")[name]
        meaning = with_interval(row["meaning"]) if name == "model" else percent(row["meaning"][0])
        seen, unseen = (percent(row[f"meaning_{kind}"][0]) for kind in ("seen", "unseen"))
        rows.append([label, meaning, seen, unseen, f"{row['bleu4']:.1f}", f"{row['cider']:.2f}"])
    return table(["2,000 test scenes", "right meaning", "seen combinations", "unseen ones", "BLEU-4", "CIDEr-D"], rows)


def captioning_published() -> str:
    """What Xu et al. (2015), "Show, Attend and Tell", https://arxiv.org/abs/1502.03044, report in their table 1."""
    rows = [["Flickr8k, Xu et al. 2015, table 1, soft attention", "67", "19.5"], ["COCO, the same", "70.7", "24.3"]]
    return table(["published, not run here", "BLEU-1", "BLEU-4"], rows)


def video() -> str:
    """What moves how in clips of digits."""
    names = {
        "model": "LeNet-5 under a GRU (`moving_digits`)",
        "model, frames shuffled": "the same model, frames shuffled",
        "model, middle frame only": "the same model, middle frame only",
        "logistic regression on one frame": "logistic regression on the middle frame",
        "most frequent": "most frequent",
    }
    rows = []
    for name, label in names.items():
        row = tested("moving_digits")[name]
        shares = [percent(row[f"{what}_accuracy"]) for what in ("digit", "direction", "speed")]
        time = f"{minutes('moving_digits'):.1f}" if name == "model" else ""
        rows.append([label, *shares, percent(row["accuracy"][0]), time])
    return table(["`moving_digits`, 2,000 test clips", "digit", "direction", "speed", "all three", "minutes"], rows)


def video_next() -> str:
    """Frames that follow."""
    scores, rows = tested("moving_digits_next"), []
    for name, label in ("model", "convolutional LSTMs (`moving_digits_next`)"), ("last frame again", "last frame again"):
        row = scores[name]
        entropy, time = (f"{row['bce']:.1f}", f"{minutes('moving_digits_next'):.1f}") if name == "model" else ("", "")
        rows.append([label, f"{row['mse']:.2f}", f"{row['mae']:.2f}", f"{row['ssim']:.3f}", entropy, time])
    return table(["2,000 test clips", "MSE", "MAE", "SSIM", "cross-entropy", "minutes"], rows)


def fsdd_strings() -> str:
    """Strings of digits."""
    scores = tested("fsdd_strings")
    model, constant = scores["model"], the_one(scores, "always")
    steps = evaluations("fsdd_strings")[-1]["step"]
    rates = (percent(constant[name], 1) for name in ("wer", "cer"))
    rows = [
        [f"recogniser, {steps:,} steps", f"**{percent(model['wer'])}**", percent(model["cer"]), with_interval(model["exact"], 1),
         f"{model['loss']:.3f}", f"{cpu_minutes('fsdd_strings'):.1f}"],
        ["always the most frequent string", *rates, percent(constant["exact"][0], 0), "", ""],
    ]  # fmt: skip
    return table(["`fsdd_strings`, 500 test strings", "WER", "CER", "strings without an error", "loss", "CPU minutes"], rows)


def fsdd() -> str:
    """Single digits."""
    scores = tested("fsdd")
    model, constant = scores["model"], the_one(scores, "always")
    epochs = config("fsdd")["train"]["epochs"]
    rows = [
        [f"recogniser, {epochs:.0f} epochs", f"**{percent(model['wer'])}**", with_interval(model["exact"], 1), f"{model['loss']:.3f}",
         f"{cpu_minutes('fsdd'):.1f}"],
        ["always the most frequent digit", percent(constant["wer"], 1), percent(constant["exact"][0], 1), "", ""],
    ]  # fmt: skip
    return table(["`fsdd`, 300 test recordings, official split", "WER", "recordings right", "loss", "CPU minutes"], rows)


def morse() -> str:
    """Morse code in noise."""
    scores, rows = tested("morse"), []
    for name, label in ("model", "`morse`, beam search"), ("threshold", "threshold decoder"), ("always", 'always "CQ"'):
        row = the_one(scores, name)
        rate = percent(row["cer"], 1)
        rate = f"**{rate}**" if name == "model" else rate
        rows.append([label, rate, percent(row["wer"], 1), percent(row["exact"][0], 1)])
    return table(["500 messages of the test part", "CER", "WER", "messages without an error"], rows)


TRIALS = {
    ("logarithm, each band by itself", 12): "logarithm, each band normalised by itself",
    ("power of 0.5, each band by itself", 12): "power of 0.5, each band by itself",
    ("power of 0.5, one level for all bands", 12): "power of 0.5, one level for all bands",
    ("power of 0.25, one level for all bands", 12): "power of 0.25, one level for all bands",
    ("power of 0.25, one level", 22): "the same, 22 epochs",
    ("power of 0.25, one level, dropout 0.25, input dropout 0.15, speeds of 6 %, moving average 0.998", 22): (
        "the same, 22 epochs, dropout 0.25 and 0.15, more speeds (the preset)"
    ),
}


def morse_trials() -> str:
    """Which features and how long a run for Morse code."""
    tried = json.loads(text("morse", "trials.json"))["trials"]
    trials = {(row["features"], row["passes"]): row.get("best_cer", row.get("cer")) for row in tried}
    rows = [[label, percent(trials[key], 1)] for key, label in TRIALS.items()]
    rows[-1][1] += f", on another run of the same settings {percent(evaluations('morse')[-1]['best'], 1)}"
    return table(["features", "CER"], rows)


def speakers() -> str:
    """One speaker left out, for each."""
    result = saved("speech_speakers")
    rates = [percent(row["wer"], 1) for row in result["speakers"].values()]
    return table(["speaker left out", *result["speakers"], "mean"], [["WER", *rates, f"**{percent(result['mean_wer'], 1)}**"]])


def mesh() -> str:
    """Memory on meshes of forced CPU devices."""
    rows = []
    for name, row in saved("mesh")["meshes"].items():
        lengths = (part.partition("=")[2] for part in name.split())
        megabytes = (f"{row[f'{kind}, MB']:.1f} MB" for kind in ("parameters and optimiser", "temporary"))
        rows.append([*lengths, *megabytes, f"{row['losses'][-1]:.6f}"])
    return table(["`mesh.data`", "`mesh.model`", "`mesh.shard`", "state", "temporary", "loss of step 3"], rows)


def weak_scaling() -> str:
    """The model of weak scaling, at each link's number of devices."""
    cases: dict[str, list[dict]] = {}
    for row in saved("weak_scaling")["modelled"]:
        cases.setdefault(row["case"], []).append(row)
    sizes, rows = {"char_small": "`char_small`, 32 x 64", "char_large": "`char_large`, 64 x 64"}, []
    for name, links in cases.items():
        alone = links[0]["rows"][0]["step_ms"]
        line = [sizes.get(name, name), f"{links[0]['parameters']:,}", f"{'at least ' if name in sizes else ''}{alone:.1f}"]
        for link in links:
            last = link["rows"][-1]
            line += [f"{last['reductions_ms']:.2f}", percent(last["efficiency"], 0), percent(last["efficiency_at_slow_hops"], 0)]
        rows.append(line)
    ends = (f"{link['name'].partition(',')[0].removeprefix('TPU ')}: reductions, ms" for link in saved("weak_scaling")["links"])
    head = ["model, rows x steps a device", "parameters", "step of one, ms"]
    return table([*head, *(title for end in ends for title in (end, "work", "work, slow hops"))], rows)


REGULAR = {
    "parity": "parity",
    "even_pairs": "even pairs",
    "cycle_navigation": "cycle navigation",
    "modular_arithmetic": "modular arithmetic",
    "dyck": "Dyck, two kinds",
}


def regular_tasks() -> str:
    """The regular tasks by two optimisers: as long as in training, longer, and longest."""
    rows = []
    for task, label in REGULAR.items():
        row = [label]
        for optimizer in ("adam", "muon"):
            run = f"long_memory_{task}_{optimizer}"
            scores = tested(run)
            shares = evaluations(run)[-1]["accuracy"], scores["model"]["accuracy"], scores["455 to 500 steps"]["accuracy"]
            shown = " / ".join("100" if share == 1 else f"{100 * share:.1f}" for share in shares)
            row.append(f"**{shown}**" if shares[1] == 1 else shown)
        rows.append(row)
    lengths = "up to 40 steps (validation) / 41 to 500 / 455 to 500"
    return table(["right answers, %", f"Adam, 3e-3: {lengths}", "Muon 0.02, Adam 3e-3 for the rest: the same"], rows)


def gradient_flow() -> str:
    """How far the gradient reaches in fresh networks."""
    rows = []
    for network in saved("gradient_flow")["networks"]:
        half_life = statistics.median(network["memory"][0]["half_life"])
        cosine = dict(zip(network["windows"], network["cosine"], strict=True))[16]
        label = network["label"].replace("radius", "spectral radius")
        rows.append([label, f"{network['lyapunov'][0]:+.3f}", f"{half_life:.2g}", f"{cosine:.2f}"])
    return table(["", "largest Lyapunov exponent", "median half-life, steps", "cosine at window 16"], rows)


TABLES: dict[str, Callable[[], str]] = {
    "music": music,
    "forecasting": forecasting,
    "forecasting seeds": forecasting_seeds,
    "promoters": promoters,
    "dna hmm": dna_hmm,
    "splice": splice,
    "captioning": captioning,
    "captioning published": captioning_published,
    "video": video,
    "video next": video_next,
    "fsdd strings": fsdd_strings,
    "fsdd": fsdd,
    "morse": morse,
    "morse trials": morse_trials,
    "speakers": speakers,
    "mesh": mesh,
    "weak scaling": weak_scaling,
    "regular tasks": regular_tasks,
    "gradient flow": gradient_flow,
}
