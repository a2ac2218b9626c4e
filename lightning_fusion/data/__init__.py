"""Data modules: raw files to :class:`~lightning_fusion.data.base.Batch`, split before anything is trained."""
