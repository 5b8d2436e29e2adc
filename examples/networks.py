"""Small networks that are really trained on real images, and exported to ONNX with torch.

The images are scikit-learn's handwritten digits (1,797 of 8 x 8 pixels, from the UCI repository): they come with the
package, so nothing is downloaded. A third trains the network; the other 1,198 go to the service.
"""

from __future__ import annotations

import logging
import warnings
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.datasets import load_digits
from torch import nn
from torch.nn import functional as F

TRAINING_IMAGES = 599


class ResidualBlock(nn.Module):
    def __init__(self, channels_in: int, channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels_in, channels, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        same = stride == 1 and channels_in == channels
        self.shortcut = nn.Identity() if same else nn.Conv2d(channels_in, channels, 1, stride)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = F.relu(self.bn1(self.conv1(x)))
        return F.relu(self.bn2(self.conv2(y)) + self.shortcut(x))


class DigitsResNet(nn.Module):
    """A residual network of 9 convolutions and a linear layer; 77,000 weights at a width of 16, 11,000 at 6."""

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, width, 3, 1, 1, bias=False)
        self.bn = nn.BatchNorm2d(width)
        self.block1 = ResidualBlock(width, width, 1)
        self.block2 = ResidualBlock(width, 2 * width, 2)
        self.block3 = ResidualBlock(2 * width, 4 * width, 2)
        self.fc = nn.Linear(4 * width, 10)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        x = F.relu(self.bn(self.stem(image)))
        x = self.block3(self.block2(self.block1(x)))
        return self.fc(x.mean((2, 3)))


class InvertedResidual(nn.Module):
    """MobileNetV2's block: widen, filter every channel by itself, narrow; both activations are clipped at 6."""

    def __init__(self, channels_in: int, channels: int, stride: int, expansion: int = 4) -> None:
        super().__init__()
        wide = expansion * channels_in
        self.expand = nn.Conv2d(channels_in, wide, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(wide)
        self.depthwise = nn.Conv2d(wide, wide, 3, stride, 1, groups=wide, bias=False)
        self.bn2 = nn.BatchNorm2d(wide)
        self.project = nn.Conv2d(wide, channels, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(channels)
        self.same = stride == 1 and channels_in == channels

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = F.relu6(self.bn1(self.expand(x)))
        y = F.relu6(self.bn2(self.depthwise(y)))
        y = self.bn3(self.project(y))
        return x + y if self.same else y


class DigitsMobileNet(nn.Module):
    """A MobileNetV2-style network: 5 inverted residuals between two convolutions, and a linear layer; 18 layers."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, 16, 3, 1, 1, bias=False)
        self.bn = nn.BatchNorm2d(16)
        widths = [(16, 16, 1), (16, 24, 2), (24, 24, 1), (24, 32, 2), (32, 32, 1)]
        self.blocks = nn.Sequential(*(InvertedResidual(*block) for block in widths))
        self.head = nn.Conv2d(32, 64, 1, bias=False)
        self.head_bn = nn.BatchNorm2d(64)
        self.fc = nn.Linear(64, 10)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        x = self.blocks(F.relu6(self.bn(self.stem(image))))
        return self.fc(F.relu6(self.head_bn(self.head(x))).mean((2, 3)))


class DigitsTransformer(nn.Module):
    """A transformer encoder that reads a digit as a sequence of 8 rows."""

    def __init__(self, layers: int = 3, width: int = 64, heads: int = 4) -> None:
        super().__init__()
        self.embed = nn.Linear(8, width)
        self.position = nn.Parameter(0.02 * torch.randn(8, width))
        layer = nn.TransformerEncoderLayer(
            width, heads, 4 * width, dropout=0.1, activation="gelu", batch_first=True, norm_first=True
        )
        self.encoder = nn.TransformerEncoder(layer, layers, enable_nested_tensor=False)
        self.norm = nn.LayerNorm(width)
        self.fc = nn.Linear(width, 10)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        x = self.embed(image.squeeze(1)) + self.position
        return self.fc(self.norm(self.encoder(x)).mean(1))


def digits(seed: int = 0) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """All images `[1797, 1, 8, 8]` with values in 0..1 and their labels `[1797]`, shuffled."""
    data = load_digits()
    order = np.random.default_rng(seed).permutation(len(data.target))
    images = (data.images[order, None] / 16).astype(np.float32)
    return images, data.target[order].astype(np.int64)


def train(network: nn.Module, epochs: int, learning_rate: float, seed: int = 0) -> None:
    """Train on the first `TRAINING_IMAGES` digits, each shifted by up to a pixel in every epoch."""
    torch.manual_seed(seed)
    images, labels = (torch.from_numpy(array[:TRAINING_IMAGES]) for array in digits(seed))
    optimizer = torch.optim.AdamW(network.parameters(), learning_rate, weight_decay=0.02)
    steps = epochs * (TRAINING_IMAGES // 64)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, learning_rate, total_steps=steps)
    network.train()
    for _ in range(epochs):
        for batch in torch.randperm(TRAINING_IMAGES).split(64)[: TRAINING_IMAGES // 64]:
            dx, dy = torch.randint(-1, 2, (2,)).tolist()
            x = torch.roll(images[batch], (dx, dy), (2, 3))
            loss = F.cross_entropy(network(x), labels[batch], label_smoothing=0.05)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    network.eval()


def save(network: nn.Module, folder: Path, name: str, seed: int = 0) -> tuple[Path, Path]:
    """Write `name`.onnx (batch axis free) and `name`.npz (the images that training did not see); gives both paths."""
    folder.mkdir(parents=True, exist_ok=True)
    model, data = folder / f"{name}.onnx", folder / f"{name}.npz"
    images, labels = digits(seed)
    np.savez(data, image=images[TRAINING_IMAGES:], labels=labels[TRAINING_IMAGES:])
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the exporter's own use of deprecated names
        torch.onnx.export(
            network,
            (torch.from_numpy(images[:2]),),
            str(model),
            output_names=["logits"],
            dynamic_shapes=({0: torch.export.Dim("batch")},),
            external_data=False,
            verbose=False,
        )
    return model, data
