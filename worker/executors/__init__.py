"""How the processes of a run are started and watched; one class per way (see ``base.Executor``)."""
