"""What is trained: a small transformer that reads and writes characters, and the text that it learns from."""

from __future__ import annotations

import torch
from torch import Tensor, nn

CONTEXT = 64
_ONES, _TENS = (
    words.split()
    for words in (
        """zero one two three four five six seven eight nine ten
        eleven twelve thirteen fourteen fifteen sixteen seventeen eighteen nineteen""",
        "twenty thirty forty fifty sixty seventy eighty ninety",
    )
)
ALPHABET = "\n -abcdefghijklmnopqrstuvwxyz."


def spelled(number: int) -> str:
    """A number from 0 to 99 in words."""
    if number < 20:
        return _ONES[number]
    tens, ones = divmod(number, 10)
    return _TENS[tens - 2] + (f"-{_ONES[ones]}" if ones else "")


def text() -> Tensor:
    """Every sum of two numbers below 100 that stays below 100, in words and in a fixed random order, as indices."""
    pairs = [(a, b) for a in range(100) for b in range(100 - a)]
    order = torch.randperm(len(pairs), generator=torch.Generator().manual_seed(0)).tolist()
    lines = [f"{spelled(a)} plus {spelled(b)} is {spelled(a + b)}.\n" for a, b in (pairs[i] for i in order)]
    return torch.tensor([ALPHABET.index(letter) for letter in "".join(lines)])


def split(characters: Tensor) -> tuple[Tensor, Tensor]:
    """What is learnt from, and the last tenth, on which the result is judged."""
    cut = len(characters) * 9 // 10
    return characters[:cut], characters[cut:]


def batch(characters: Tensor, size: int, *key: int) -> tuple[Tensor, Tensor]:
    """`size` pieces of the text and what follows each character; the same for the same key, which names who asks."""
    seed = 0
    for part in key:
        seed = (seed * 1_000_003 + part + 1) % 2**62
    starts = torch.randint(len(characters) - CONTEXT - 1, (size,), generator=torch.Generator().manual_seed(seed))
    pieces = torch.stack([characters[start : start + CONTEXT + 1] for start in starts.tolist()])
    return pieces[:, :-1], pieces[:, 1:]


class Block(nn.Module):
    """Attention to what came before, then a layer for each character by itself."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.project = nn.Linear(width, width, bias=False)
        self.up = nn.Linear(width, 4 * width, bias=False)
        self.down = nn.Linear(4 * width, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        count, length, width = x.shape
        parts = self.qkv(self.norm1(x)).view(count, length, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        seen = nn.functional.scaled_dot_product_attention(*parts.unbind(0), is_causal=True)
        x = x + self.project(seen.transpose(1, 2).reshape(count, length, width))
        return x + self.down(nn.functional.gelu(self.up(self.norm2(x))))


class Transformer(nn.Module):
    """Indices of characters to scores of the ones that follow."""

    def __init__(self, width: int = 64, layers: int = 2, heads: int = 4) -> None:
        super().__init__()
        self.letters = nn.Embedding(len(ALPHABET), width)
        self.places = nn.Embedding(CONTEXT, width)
        self.blocks = nn.ModuleList(Block(width, heads) for _ in range(layers))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, len(ALPHABET))

    def forward(self, letters: Tensor) -> Tensor:
        x = self.letters(letters) + self.places.weight[: letters.shape[1]]
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x))


def loss_of(model: nn.Module, inputs: Tensor, targets: Tensor) -> Tensor:
    """Mean cross-entropy in nats for each character."""
    return nn.functional.cross_entropy(model(inputs).flatten(0, 1), targets.flatten())


@torch.no_grad()
def validation_loss(model: nn.Module, characters: Tensor) -> float:
    """On a fixed part of the text that nobody learns from."""
    return loss_of(model, *batch(characters, 64, 0)).item()
