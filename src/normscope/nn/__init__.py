"""Layers: the constructor, state_dict, numbers and error texts of torch.nn.BatchNorm, plus what torch lacks."""

from normscope.nn.batchnorm import BatchNorm1d as BatchNorm1d
from normscope.nn.batchnorm import BatchNorm2d as BatchNorm2d
from normscope.nn.batchnorm import BatchNorm3d as BatchNorm3d
from normscope.nn.ghost import GhostBatchNorm1d as GhostBatchNorm1d
from normscope.nn.ghost import GhostBatchNorm2d as GhostBatchNorm2d
from normscope.nn.ghost import GhostBatchNorm3d as GhostBatchNorm3d

__all__ = [
    "BatchNorm1d",
    "BatchNorm2d",
    "BatchNorm3d",
    "GhostBatchNorm1d",
    "GhostBatchNorm2d",
    "GhostBatchNorm3d",
]
