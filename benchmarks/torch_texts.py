"""The classifier, the tagger and the encoder-decoder in idiomatic torch: packed sequences, loops where needed."""

import torch
from torch import nn
from torch.nn.functional import cross_entropy
from torch.nn.utils import rnn

PACK = True  # False runs over the padding too, which changes backward layers: shows the cost of packing


def run_packed(layer: nn.Module, xs: torch.Tensor, lengths: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """A recurrent layer over padded sequences (B, T, D): outputs (B, T, ...), zero at padding, and the last states."""
    if not PACK:
        return layer(xs)
    packed = rnn.pack_padded_sequence(xs, lengths, batch_first=True, enforce_sorted=False)
    ys, last = layer(packed)
    ys, _ = rnn.pad_packed_sequence(ys, batch_first=True, total_length=xs.shape[1])
    return ys, last


def real_steps(lengths: torch.Tensor, steps: int) -> torch.Tensor:
    """A mask (B, T)."""
    return torch.arange(steps)[None, :] < lengths[:, None]


class Classifier(nn.Module):
    """Embedding, bidirectional LSTM, additive attention pooling, softmax; `forward` gives the mean loss."""

    def __init__(self, vocab: int, classes: int, embed: int, hidden: int, embed_dropout: float, dropout: float):
        super().__init__()
        self.embed = nn.Embedding(vocab, embed)
        self.rnn = nn.LSTM(embed, hidden, batch_first=True, bidirectional=True)
        self.attention = nn.Linear(2 * hidden, 2 * hidden)
        self.score = nn.Parameter(torch.randn(2 * hidden) * 0.1)
        self.head = nn.Linear(2 * hidden, classes)
        self.embed_noise, self.noise = nn.Dropout(embed_dropout), nn.Dropout(dropout)

    def forward(self, tokens, lengths, labels):
        ys, _ = run_packed(self.rnn, self.embed_noise(self.embed(tokens)), lengths)
        scores = torch.tanh(self.attention(ys)) @ self.score
        weights = scores.masked_fill(~real_steps(lengths, tokens.shape[1]), -torch.inf).softmax(dim=1)
        pooled = torch.bmm(weights[:, None, :], ys)[:, 0]
        return cross_entropy(self.head(self.noise(pooled)), labels)


class CRF(nn.Module):
    """A linear-chain CRF with the forward algorithm as a loop over time."""

    def __init__(self, tags: int):
        super().__init__()
        self.transitions = nn.Parameter(torch.zeros(tags, tags))
        self.start, self.end = nn.Parameter(torch.zeros(tags)), nn.Parameter(torch.zeros(tags))

    def forward(self, emissions, tags, lengths):
        """-log p of each sentence, (B,)."""
        real = real_steps(lengths, tags.shape[1])
        last = tags.gather(1, (lengths - 1)[:, None])[:, 0]
        emitted = emissions.gather(2, tags[..., None])[..., 0]
        moved = self.transitions[tags[:, :-1], tags[:, 1:]]
        score = self.start[tags[:, 0]] + self.end[last] + (emitted * real).sum(1) + (moved * real[:, 1:]).sum(1)
        alpha = self.start + emissions[:, 0]
        for t in range(1, tags.shape[1]):
            paths = alpha[:, :, None] + self.transitions[None]
            alpha = torch.where(real[:, t, None], torch.logsumexp(paths, dim=1) + emissions[:, t], alpha)
        return torch.logsumexp(alpha + self.end, dim=1) - score


class Tagger(nn.Module):
    """Words and a convolution over their characters, bidirectional LSTM, softmax or CRF; gives the mean loss per word."""

    def __init__(
        self, vocab: int, chars: int, tags: int, embed: int, char_embed: int, char_size: int, hidden: int, crf: bool,
        embed_dropout: float, dropout: float,
    ):  # fmt: skip
        super().__init__()
        self.embed, self.char_embed = nn.Embedding(vocab, embed), nn.Embedding(chars, char_embed)
        self.conv = nn.Conv1d(char_embed, char_size, 3, padding=1)
        self.rnn = nn.LSTM(embed + char_size, hidden, batch_first=True, bidirectional=True)
        self.head = nn.Linear(2 * hidden, tags)
        self.crf = CRF(tags) if crf else None
        self.embed_noise, self.noise = nn.Dropout(embed_dropout), nn.Dropout(dropout)

    def forward(self, words, chars, tags, lengths):
        real = (chars != 0).flatten(0, 1)
        xs = self.char_embed(chars).flatten(0, 1) * real[..., None]
        found = self.conv(xs.transpose(1, 2)).masked_fill(~real[:, None, :], torch.finfo(xs.dtype).min).amax(dim=2)
        found = (found * real[:, :1]).unflatten(0, words.shape)
        xs = self.embed_noise(torch.cat([self.embed(words), found], dim=-1))
        scores = self.head(self.noise(run_packed(self.rnn, xs, lengths)[0]))
        if self.crf is not None:
            return self.crf(scores, tags, lengths).sum() / lengths.sum()
        tags = tags.masked_fill(~real_steps(lengths, tags.shape[1]), -100)
        return cross_entropy(scores.flatten(0, 1), tags.flatten())


class Seq2Seq(nn.Module):
    """Bidirectional GRU encoder, one-layer GRU decoder, tied embeddings; gives the mean loss per target token.

    Attention is "none", "bahdanau" or "luong_general", the last with or without input feeding. If nothing is fed back the decoder runs all
    steps at once; else it is a loop over time, with the softmax once at the end.
    """

    def __init__(self, vocab: int, embed: int, hidden: int, attention: str, feeding: bool, dropout: float, smoothing: float):
        super().__init__()
        self.attention, self.feeding, self.smoothing = attention, feeding, smoothing
        self.embed = nn.Embedding(vocab, embed)
        self.encoder = nn.GRU(embed, hidden, batch_first=True, bidirectional=True)
        self.bridge = nn.Linear(2 * hidden, hidden)
        fed = {"bahdanau": 2 * hidden, "luong_general": embed if feeding else 0, "none": 0}[attention]
        cell = nn.GRUCell if fed else nn.GRU
        self.decoder = cell(embed + fed, hidden, **({} if fed else {"batch_first": True}))
        if attention == "bahdanau":
            self.query, self.keys = nn.Linear(hidden, hidden, bias=False), nn.Linear(2 * hidden, hidden)
            self.score = nn.Parameter(torch.randn(hidden) * 0.1)
        elif attention != "none":
            self.keys = nn.Linear(2 * hidden, hidden, bias=False)
        if attention != "none":
            self.combine = nn.Linear(3 * hidden, embed)
        self.bias, self.noise = nn.Parameter(torch.zeros(vocab)), nn.Dropout(dropout)

    def forward(self, source, source_lengths, inputs, targets, mask):
        values, last = run_packed(self.encoder, self.noise(self.embed(source)), source_lengths)
        state = torch.tanh(self.bridge(torch.cat([last[0], last[1]], dim=-1)))
        xs = self.noise(self.embed(inputs))
        padding = ~real_steps(source_lengths, source.shape[1])
        keys = None if self.attention == "none" else self.keys(values)
        if self.attention == "bahdanau":
            outputs = self.run_bahdanau(xs, state, values, keys, padding)
        elif self.feeding:
            outputs = self.run_feeding(xs, state, values, keys, padding)
        else:
            outputs, _ = self.decoder(xs, state[None])
            if self.attention != "none":
                scores = torch.bmm(outputs, keys.transpose(1, 2)).masked_fill(padding[:, None, :], -torch.inf)
                context = torch.bmm(scores.softmax(dim=-1), values)
                outputs = torch.tanh(self.combine(torch.cat([context, outputs], dim=-1)))
        logits = nn.functional.linear(self.noise(outputs), self.embed.weight, self.bias)
        targets = targets.masked_fill(~mask, -100)
        return cross_entropy(logits.flatten(0, 1), targets.flatten(), label_smoothing=self.smoothing)

    def run_feeding(self, xs, state, values, keys, padding):
        """Luong's attention with input feeding."""
        output, outputs = xs.new_zeros(xs.shape[0], self.embed.embedding_dim), []
        for x in xs.unbind(1):
            state = self.decoder(torch.cat([x, output], dim=-1), state)
            scores = torch.bmm(keys, state[..., None])[..., 0].masked_fill(padding, -torch.inf)
            context = torch.bmm(scores.softmax(dim=-1)[:, None, :], values)[:, 0]
            output = torch.tanh(self.combine(torch.cat([context, state], dim=-1)))
            outputs.append(output)
        return torch.stack(outputs, dim=1)

    def run_bahdanau(self, xs, state, values, keys, padding):
        """Bahdanau's attention; everything after the state is computed for all steps at once."""
        contexts, states = [], []
        for x in xs.unbind(1):
            scores = torch.tanh(self.query(state)[:, None, :] + keys) @ self.score
            context = torch.bmm(scores.masked_fill(padding, -torch.inf).softmax(dim=-1)[:, None, :], values)[:, 0]
            state = self.decoder(torch.cat([x, context], dim=-1), state)
            contexts.append(context)
            states.append(state)
        return torch.tanh(self.combine(torch.cat([torch.stack(contexts, 1), torch.stack(states, 1)], dim=-1)))
