"""The built-in pipelines, one per workflow type, used when a workflow's config has no steps."""

from .base import Recipe
from .build import BuildRecipe
from .test import TestRecipe

RECIPES: dict[str, Recipe] = {
    recipe.workflow_type: recipe for recipe in (BuildRecipe(), TestRecipe())
}


def get_recipe(workflow_type: str) -> Recipe | None:
    """Return the recipe of a workflow type, None when its workflows must bring their own steps."""
    return RECIPES.get(workflow_type)
