"""A transformer with 70,000 parameters that writes letters, and what it reads and writes."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

LETTERS = "abcdefgh"
SEPARATOR, END = len(LETTERS), len(LETTERS) + 1
"""Tokens: a letter is its number; the separator stands between what is asked and what is answered."""


def encode(text: str) -> list[int]:
    """The tokens of letters."""
    return [LETTERS.index(letter) for letter in text]


def decode(tokens: list[int]) -> str:
    """What these tokens read as, up to the end."""
    letters = tokens[: tokens.index(END)] if END in tokens else tokens
    return "".join(LETTERS[token] if token < len(LETTERS) else "|" for token in letters)


class Reverser(nn.Module):
    """Causal, two layers wide enough for the task."""

    def __init__(self, seq_len: int, width: int = 64, layers: int = 2) -> None:
        super().__init__()
        self.token = nn.Embedding(len(LETTERS) + 2, width)
        self.place = nn.Embedding(seq_len, width)
        self.blocks = nn.ModuleList(
            nn.TransformerEncoderLayer(width, 4, 2 * width, 0.0, batch_first=True, norm_first=True)
            for _ in range(layers)
        )
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, len(LETTERS) + 2)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """Logits of the token after each."""
        length = tokens.shape[1]
        mask = nn.Transformer.generate_square_subsequent_mask(length)
        hidden = self.token(tokens) + self.place(torch.arange(length))
        for block in self.blocks:
            hidden = block(hidden, src_mask=mask, is_causal=True)
        return self.head(self.norm(hidden))


def load(name: str, seq_len: int) -> Reverser:
    """`tiny`, untrained and the same each time, or the model whose weights a directory holds."""
    torch.manual_seed(0)
    model = Reverser(seq_len)
    if name != "tiny":
        model.load_state_dict(torch.load(Path(name) / "weights.pt"))
    return model


def save(model: nn.Module, folder: Path) -> None:
    """Writes the weights into a directory that appears when it is complete."""
    draft = folder.with_name(f".{folder.name}.new")
    draft.mkdir(parents=True, exist_ok=True)
    torch.save(model.state_dict(), draft / "weights.pt")
    if not folder.exists():
        draft.rename(folder)
