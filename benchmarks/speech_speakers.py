"""How well are the spoken digits of an unseen speaker recognised? Leaves out each speaker in turn.

    python -m benchmarks.speech_speakers --workdir=/tmp/speakers --config=fsdd --config.data.path=recordings.tar.gz

The flags are those of `experiments.speech`. For each speaker a run is trained on the recordings of all others (a share of them is
validation) and evaluated once on those of that speaker. A stopped command continues where it stopped. Writes the scores of
all speakers, and the pooled error rate, to results/speech_speakers.json.
"""

import json
import pathlib
import subprocess
import sys

from benchmarks import common
from experiments import speech
from seqjax.data.readers.spoken_digits import read_digits
from seqjax.run import cli


def main() -> None:
    """Trains, evaluates and saves."""
    command = cli.parse(speech.EXPERIMENT, sys.argv)
    config = cli.config_of(speech.EXPERIMENT, command)
    speakers, found = sorted(set(read_digits(config.data.path, config.data.rate)["speaker"])), {}
    flags = [flag for flag in sys.argv[1:] if not flag.startswith("--workdir")]
    for speaker in speakers:
        workdir = pathlib.Path(command.workdir) / speaker
        run = [sys.executable, "-m", "experiments.speech", f"--workdir={workdir}"]
        subprocess.run([*run, *flags, f"--config.data.leave_out={speaker}"], check=True)
        path = workdir / "evaluation_test.json"
        if not path.exists():
            subprocess.run([*run, "--mode=evaluate", "--split=test", "--beam=1"], check=True)
        model = json.loads(path.read_text(encoding="utf-8"))["scores"]["model"]
        metrics = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
        minutes = [record["minutes"] for record in metrics if "minutes" in record][-1]
        found[speaker] = {"wer": model["wer"], "exact": model["exact"], "loss": model["loss"], "minutes": minutes}
        print(f"{speaker}: WER {model['wer']:.2%}", flush=True)
    common.save(
        "speech_speakers",
        {
            "question": "word error rate of single digits of a speaker who is not in the training part",
            "flags": [flag for flag in flags if not flag.startswith("--config.data.path")],
            "mean_wer": sum(each["wer"] for each in found.values()) / len(found),
            "speakers": found,
        },
    )


if __name__ == "__main__":
    main()
