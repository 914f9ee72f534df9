"""Segmentation of pictures of any size, tile by tile, with blended seams and bounded memory."""

from mmvim.models.tiled.segmentor import TiledSegmentor

__all__ = ['TiledSegmentor']
