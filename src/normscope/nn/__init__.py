"""Layers: the constructor, state_dict, numbers and error texts of torch.nn.BatchNorm, plus what torch lacks."""

from normscope.nn.act import BatchNormAct1d as BatchNormAct1d
from normscope.nn.act import BatchNormAct2d as BatchNormAct2d
from normscope.nn.act import BatchNormAct3d as BatchNormAct3d
from normscope.nn.batchnorm import BatchNorm1d as BatchNorm1d
from normscope.nn.batchnorm import BatchNorm2d as BatchNorm2d
from normscope.nn.batchnorm import BatchNorm3d as BatchNorm3d
from normscope.nn.frozen import FrozenBatchNorm1d as FrozenBatchNorm1d
from normscope.nn.frozen import FrozenBatchNorm2d as FrozenBatchNorm2d
from normscope.nn.frozen import FrozenBatchNorm3d as FrozenBatchNorm3d
from normscope.nn.ghost import GhostBatchNorm1d as GhostBatchNorm1d
from normscope.nn.ghost import GhostBatchNorm2d as GhostBatchNorm2d
from normscope.nn.ghost import GhostBatchNorm3d as GhostBatchNorm3d
from normscope.nn.masked import MaskedBatchNorm1d as MaskedBatchNorm1d
from normscope.nn.renorm import BatchRenorm1d as BatchRenorm1d
from normscope.nn.renorm import BatchRenorm2d as BatchRenorm2d
from normscope.nn.renorm import BatchRenorm3d as BatchRenorm3d

__all__ = [
    "BatchNorm1d",
    "BatchNorm2d",
    "BatchNorm3d",
    "BatchNormAct1d",
    "BatchNormAct2d",
    "BatchNormAct3d",
    "BatchRenorm1d",
    "BatchRenorm2d",
    "BatchRenorm3d",
    "FrozenBatchNorm1d",
    "FrozenBatchNorm2d",
    "FrozenBatchNorm3d",
    "GhostBatchNorm1d",
    "GhostBatchNorm2d",
    "GhostBatchNorm3d",
    "MaskedBatchNorm1d",
]
