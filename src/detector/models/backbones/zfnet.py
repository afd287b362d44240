"""ZFNet: AlexNet with a finer first layer (Zeiler and Fergus, arXiv 1311.2901, figure 3)."""

from __future__ import annotations

from torch import Tensor, nn


class ZFNet(nn.Module):
    """The layers of the paper's figure, up to the last pooling."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(3, 96, 7, stride=2, padding=1),  # 224 pixels -> 110 cells
            nn.ReLU(inplace=True),
            nn.MaxPool2d(3, stride=2, padding=1),  # -> 55
            nn.LocalResponseNorm(5),
            nn.Conv2d(96, 256, 5, stride=2),  # -> 26
            nn.ReLU(inplace=True),
            nn.MaxPool2d(3, stride=2, padding=1),  # -> 13
            nn.LocalResponseNorm(5),
            nn.Conv2d(256, 384, 3, padding=1),
            nn.ReLU(inplace=True),
            nn.Conv2d(384, 384, 3, padding=1),
            nn.ReLU(inplace=True),
            nn.Conv2d(384, 256, 3, padding=1),
            nn.ReLU(inplace=True),
            nn.MaxPool2d(3, stride=2),  # -> 6
        )
        for layer in self.features:
            if isinstance(layer, nn.Conv2d):
                nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
                assert layer.bias is not None
                nn.init.zeros_(layer.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Compute features `(N, 256, H', W')` of normalised images `(N, 3, H, W)`."""
        features: Tensor = self.features(x)
        return features
