"""The network in torch, on the accelerator that torch finds, else on the CPU."""

from __future__ import annotations

import torch

from network.execution import TorchNetwork
from network.graph import Network


def differentiable(network: Network) -> TorchNetwork:
    """The network with gradients.

    Raises:
        UnsupportedOperators: nodes without a rule; the text names every such operator and node.
    """
    return TorchNetwork(network, device="cuda" if torch.cuda.is_available() else "cpu")
