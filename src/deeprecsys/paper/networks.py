"""Other networks, counted from their layers: ResNet-50, BERT-base, and a recurrent language model."""

from __future__ import annotations

from dataclasses import dataclass

FLOAT_BYTES = 4


@dataclass(frozen=True, slots=True)
class Counted:
    """A network's cost for one input.

    Attributes:
        name: with the size of an input.
        flops: 2 x multiply-adds.
        weight_bytes: all parameters of layers, read `reads` times per batch.
        table_bytes: embedding tables, of which an input reads `gathered_bytes`.
    """

    name: str
    flops: int
    weight_bytes: int
    table_bytes: int = 0
    gathered_bytes: int = 0
    reads: int = 1

    @property
    def memory_bytes(self) -> int:
        return self.weight_bytes + self.table_bytes

    def intensity(self, batch: int) -> float:
        """FLOPs per byte of weights and rows read, for a batch."""
        return batch * self.flops / (self.reads * self.weight_bytes + batch * self.gathered_bytes)


def resnet50() -> Counted:
    """He et al. 2015, Table 1: 224 x 224 x 3, bottleneck blocks 3-4-6-3; batch normalisation not counted.

    The stride of a stage is in its first block's 3 x 3 layer, as frameworks have it.
    """
    flops, weights = _convolution(3, 64, 7, 112)
    channels, side = 64, 56
    for width, blocks, stage_side in ((64, 3, 56), (128, 4, 28), (256, 6, 14), (512, 3, 7)):
        for block in range(blocks):
            entry = side if block == 0 else stage_side
            parts = [
                _convolution(channels, width, 1, entry),
                _convolution(width, width, 3, stage_side),
                _convolution(width, 4 * width, 1, stage_side),
            ]
            if block == 0:
                parts.append(_convolution(channels, 4 * width, 1, stage_side))
            flops += sum(f for f, _ in parts)
            weights += sum(w for _, w in parts)
            channels, side = 4 * width, stage_side
    flops += 2 * channels * 1000
    weights += (channels + 1) * 1000
    return Counted("ResNet-50", flops, weights * FLOAT_BYTES)


def _convolution(channels: int, filters: int, kernel: int, side: int) -> tuple[int, int]:
    """FLOPs and weights of a convolution whose output is `side` x `side`."""
    weights = channels * filters * kernel * kernel
    return 2 * weights * side * side, weights


def bert_base(tokens: int = 128) -> Counted:
    """Devlin et al. 2018: 12 layers, width 768, inner width 3072, 30,522 word pieces."""
    layers, width, inner = 12, 768, 3072
    weights = layers * (4 * width * (width + 1) + width * (inner + 1) + inner * (width + 1) + width - inner)
    weights += layers * inner  # the inner layer's biases
    products = layers * (4 * width * width + 2 * width * inner) * tokens
    attention = layers * 2 * tokens * tokens * width
    rows = (30_522 + 512 + 2) * width
    return Counted(
        f"BERT-base, {tokens} tokens",
        2 * (products + attention),
        weights * FLOAT_BYTES,
        rows * FLOAT_BYTES,
        3 * tokens * width * FLOAT_BYTES,
    )


def lstm(tokens: int = 20, width: int = 1024, layers: int = 2, words: int = 33_278) -> Counted:
    """A word language model: two LSTM layers of 1024 (four gates each) over 20 tokens and a softmax over the
    words; the weights are read again in every step."""
    cell = 4 * (2 * width + 1) * width
    out = words * (width + 1)
    return Counted(
        f"LSTM, {tokens} tokens",
        2 * tokens * (layers * 4 * 2 * width * width + words * width),
        (layers * cell + out) * FLOAT_BYTES,
        words * width * FLOAT_BYTES,
        tokens * width * FLOAT_BYTES,
        reads=tokens,
    )
