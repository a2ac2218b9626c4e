"""Data modules: raw files to :class:`~lightning_fusion.data.batch.Batch`, split before anything is trained."""
