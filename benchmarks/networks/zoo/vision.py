"""Networks that look at images, from both exporters of torch."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate, relu

from benchmarks.certificates.training import exported
from benchmarks.networks.entry import Array, Network, made, network
from benchmarks.networks.random_weights import first, lively, noisy_classes, normal


def images(size: int, channels: int = 3, name: str = "image") -> Any:
    """Smooth random images: noise on a coarse grid, enlarged, and some fine noise."""

    def draw(rng: np.random.Generator, n: int) -> dict[str, Array]:
        coarse = rng.normal(size=(n, channels, size // 4, size // 4)).repeat(4, 2).repeat(4, 3)
        return {name: (coarse + 0.3 * rng.normal(size=coarse.shape)).astype(np.float32)}

    return draw


class Residual(nn.Module):
    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.second = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.norms = nn.ModuleList(nn.BatchNorm2d(outputs) for _ in range(3))
        self.short = nn.Conv2d(inputs, outputs, 1, stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        y = self.norms[1](self.second(relu(self.norms[0](self.first(x)))))
        return relu(y + self.norms[2](self.short(x)))


@network("image classifier, residual")
def resnet() -> Network:
    draw = images(16)

    def make() -> nn.Module:
        return nn.Sequential(
            nn.Conv2d(3, 8, 3, 1, 1), nn.BatchNorm2d(8), nn.ReLU(), nn.MaxPool2d(3, 2, 1),
            Residual(8, 16, 1), Residual(16, 24, 2), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(24, 10),
        )  # fmt: skip

    example = first(draw, 32)
    model = exported(lively(make, *example.values()), first(draw), ["logits"])
    return made(model, draw, labels=noisy_classes(model))


class Squeeze(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.down, self.up = nn.Conv2d(width, width // 4, 1), nn.Conv2d(width // 4, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        scale: Tensor = nn.functional.hardsigmoid(self.up(relu(self.down(x.mean((2, 3), keepdim=True)))))
        return x * scale


@network("image classifier, depthwise with squeeze and excitation")
def mobilenet_se() -> Network:
    draw = images(16)

    def block(inputs: int, width: int, outputs: int, stride: int) -> nn.Module:
        return nn.Sequential(
            nn.Conv2d(inputs, width, 1, bias=False), nn.BatchNorm2d(width), nn.Hardswish(),
            nn.Conv2d(width, width, 3, stride, 1, groups=width, bias=False), nn.BatchNorm2d(width), nn.Hardswish(),
            Squeeze(width), nn.Conv2d(width, outputs, 1, bias=False), nn.BatchNorm2d(outputs),
        )  # fmt: skip

    def make() -> nn.Module:
        return nn.Sequential(
            nn.Conv2d(3, 8, 3, 2, 1), nn.Hardswish(), block(8, 24, 12, 1), block(12, 32, 16, 2),
            nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 8),
        )  # fmt: skip

    model = exported(lively(make, *first(draw, 32).values()), first(draw), ["logits"], dynamo=True)
    return made(model, draw, labels=noisy_classes(model))


class ConvNextBlock(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.depthwise = nn.Conv2d(width, width, 7, 1, 3, groups=width)
        self.norm = nn.LayerNorm(width)
        self.up, self.down = nn.Linear(width, 3 * width), nn.Linear(3 * width, width)
        self.scale = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(self.depthwise(x).permute(0, 2, 3, 1))
        y = self.scale * self.down(nn.functional.gelu(self.up(y)))
        return x + y.permute(0, 3, 1, 2)


@network("image classifier, ConvNeXt")
def convnext() -> Network:
    draw = images(16)

    def make() -> nn.Module:
        return nn.Sequential(
            nn.Conv2d(3, 16, 4, 4), ConvNextBlock(16), ConvNextBlock(16),
            nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.LayerNorm(16), nn.Linear(16, 10),
        )  # fmt: skip

    model = exported(lively(make), first(draw), ["logits"], dynamo=True)
    return made(model, draw)


class UNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.enter = nn.Sequential(nn.Conv2d(3, 8, 3, 1, 1), nn.BatchNorm2d(8), nn.ReLU())
        self.down = nn.Sequential(nn.Conv2d(8, 16, 3, 2, 1), nn.BatchNorm2d(16), nn.ReLU())
        self.deep = nn.Sequential(nn.Conv2d(16, 24, 3, 2, 1), nn.ReLU())
        self.up = nn.ConvTranspose2d(24, 16, 2, 2)
        self.leave = nn.Conv2d(16 + 8, 5, 3, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        first = self.enter(x)
        second = self.down(first)
        y = relu(self.up(self.deep(second)) + second)
        y = interpolate(y, scale_factor=2.0, mode="bilinear", align_corners=False)
        logits: Tensor = self.leave(torch.cat([y, first], 1))
        return logits


@network("segmentation, free size")
def unet() -> Network:
    draw = images(16)
    free = {name: {2: "height", 3: "width"} for name in ("image", "classes")}
    model = exported(lively(UNet, *first(draw, 32).values()), first(draw), ["classes"], free=free)
    other = {"image": images(32)(np.random.default_rng(3), 2)["image"][:, :, :24]}
    return made(model, draw, labels=noisy_classes(model, axis=1), lengths=(other,))


class ViT(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, 24, 4, 4)
        self.token, self.places = nn.Parameter(torch.zeros(1, 1, 24)), nn.Parameter(torch.zeros(1, 17, 24))
        self.layers = nn.ModuleList(
            nn.TransformerEncoderLayer(24, 4, 48, activation="gelu", batch_first=True, norm_first=True)
            for _ in range(2)
        )
        self.norm, self.head = nn.LayerNorm(24), nn.Linear(24, 7)

    def forward(self, x: Tensor) -> Tensor:
        y = self.patches(x).flatten(2).transpose(1, 2)
        y = torch.cat([self.token.expand(x.shape[0], -1, -1), y], 1) + self.places
        for layer in self.layers:
            y = layer(y)
        logits: Tensor = self.head(self.norm(y)[:, 0])
        return logits


@network("image classifier, ViT")
def vit() -> Network:
    draw = images(16)
    with torch.no_grad():
        model = exported(lively(ViT), first(draw), ["logits"], dynamo=True)
    return made(model, draw, labels=noisy_classes(model))


@network("GAN generator")
def generator() -> Network:
    draw = normal(noise=(12, 1, 1))

    def make() -> nn.Module:
        return nn.Sequential(
            nn.ConvTranspose2d(12, 24, 4, 1, 0, bias=False), nn.BatchNorm2d(24), nn.ReLU(),
            nn.ConvTranspose2d(24, 12, 4, 2, 1, bias=False), nn.BatchNorm2d(12), nn.LeakyReLU(0.2),
            nn.ConvTranspose2d(12, 3, 4, 2, 1), nn.Tanh(),
        )  # fmt: skip

    model = exported(lively(make, *first(draw, 32).values()), first(draw), ["picture"])
    return made(model, draw)


@network("super-resolution, free size")
def super_resolution() -> Network:
    draw = images(12, name="low")

    def make() -> nn.Module:
        return nn.Sequential(nn.Conv2d(3, 16, 5, 1, 2), nn.PReLU(16), nn.Conv2d(16, 12, 3, 1, 1), nn.PixelShuffle(2))

    free = {name: {2: "height", 3: "width"} for name in ("low", "high")}
    model = exported(lively(make), first(draw), ["high"], free=free)
    return made(model, draw, lengths=({"low": np.ones((1, 3, 7, 20), np.float32)},))


@network("image regressor with GroupNorm and InstanceNorm")
def group_norms() -> Network:
    draw = images(12)

    def make() -> nn.Module:
        return nn.Sequential(
            nn.Conv2d(3, 12, 3, 1, 1), nn.GroupNorm(3, 12), nn.SiLU(), nn.Conv2d(12, 12, 3, 2, 1),
            nn.InstanceNorm2d(12, affine=True), nn.ELU(), nn.Flatten(), nn.Linear(12 * 36, 5),
        )  # fmt: skip

    model = exported(lively(make), first(draw), ["values"], dynamo=True)
    return made(model, draw)


class Style(nn.Module):
    """Reflection padding, instance norms without parameters, and nearest upsampling."""

    def __init__(self) -> None:
        super().__init__()
        self.enter, self.down, self.leave = nn.Conv2d(3, 8, 5), nn.Conv2d(8, 16, 3, 2, 1), nn.Conv2d(16, 3, 3, 1, 1)
        self.norm = nn.InstanceNorm2d(16)

    def forward(self, x: Tensor) -> Tensor:
        y = relu(self.enter(nn.functional.pad(x, (2, 2, 2, 2), mode="reflect")))
        y = relu(self.norm(self.down(y)))
        picture: Tensor = self.leave(interpolate(y, scale_factor=2.0, mode="nearest"))
        return picture


@network("style transfer, free size")
def style_transfer() -> Network:
    draw = images(12)
    free = {name: {2: "height", 3: "width"} for name in ("image", "picture")}
    model = exported(lively(Style), first(draw), ["picture"], free=free, opset=11)
    return made(model, draw, lengths=({"image": np.random.default_rng(5).normal(size=(2, 3, 8, 18)).astype("f")},))
