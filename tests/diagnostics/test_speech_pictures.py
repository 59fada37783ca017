"""The picture of what was heard is drawn for any text, empty ones and sounds of no step included."""

import jax
import matplotlib.image
import numpy as np

from seqjax.data.transforms.sounds import FrontEnd
from seqjax.decoding.speech import SpeechReader
from seqjax.diagnostics.speech import plot_heard
from seqjax.models import make_stack
from seqjax.models.speech import Recogniser
from seqjax.text import CharTokenizer


def test_pictures_of_any_text(tmp_path):
    tokenizer = CharTokenizer.fit(["ab c"])
    model = Recogniser(tokenizer.vocab_size, make_stack("gru", 6, 1), filters=6)
    reader = SpeechReader(model, FrontEnd(8000, 200, 80, 12), tokenizer, batch_size=2, boundaries=(4000,))
    variables = model.init(jax.random.key(0), np.zeros((1, 8, 12), np.float32), np.array([8]))
    rng = np.random.default_rng(0)
    sounds = [rng.integers(-9999, 9999, n).astype(np.int16) for n in (4000, 1700, 330)]
    scored = reader.log_probs(variables, sounds)
    rows = [(sound, rows, reader.search([rows], width=1)[0][0], text) for sound, rows, text in zip(sounds, scored, ("ab c", "", "b"))]
    pixels = matplotlib.image.imread(plot_heard(tmp_path / "heard.png", reader, rows))
    assert pixels.shape[0] > 600 and pixels[..., :3].std() > 0.1
