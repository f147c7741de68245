"""`make chaos`: many runs, several workers, everything around them breaking; then a judgement."""
