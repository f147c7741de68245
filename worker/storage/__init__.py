"""Where artifacts are kept; one class per kind of store (see ``base.ArtifactStore``)."""
