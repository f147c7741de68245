"""The worker's door to the control plane; one class per door (see ``base.ControlPlane``)."""
