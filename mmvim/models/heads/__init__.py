"""Heads that neither library has in a form that needs no data samples."""

from mmvim.models.heads.linear_cls_head import LinearClsHead

__all__ = ['LinearClsHead']
